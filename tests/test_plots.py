"""Pictures of a training run."""

import numpy as np
import pytest
from cubes_of_arrays import ArrayCube, smooth_cubes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_masked_task import NAMES, config_of, network_of

from ms2hs.errors import OutputError
from ms2hs.training import plots
from ms2hs.training.masked_task import MaskedTask
from ms2hs.training.plots import HIDDEN, UNKNOWN, plot_batch


def batch_of(name, step=0, cubes=None, **changes):
    return MaskedTask(config_of(name, **changes), cubes or smooth_cubes(3), 3, 10).batch(step)


def share_of_colour(path, colour):
    picture = imread(path)[:, :, :3]
    return (np.abs(picture - to_rgb(colour)).max(axis=2) < 0.01).mean()


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Plot a batch; the file, and its figure."""
    figures = []

    class Kept(Figure):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            figures.append(self)

    monkeypatch.setattr(plots, "Figure", Kept)

    def draw(batch, made=None):
        plot_batch(batch, batch["truth"] if made is None else made, tmp_path / "picture.png")
        return tmp_path / "picture.png", figures[-1]

    return draw


@pytest.mark.parametrize("name", NAMES)
def test_task_writes_a_picture(name, tmp_path):
    config = config_of(name)
    task = MaskedTask(config, smooth_cubes(3), 3, 10)
    task.save_picture(network_of(config), tmp_path / "step.png")
    assert [path.name for path in tmp_path.iterdir()] == ["step.png"]
    picture = imread(tmp_path / "step.png")
    assert min(picture.shape[:2]) >= 600
    assert 0.02 < (picture[:, :, :3].min(axis=2) < 0.9).mean() < 0.9
    task.save_picture(network_of(config), tmp_path / "again.png")
    np.testing.assert_array_equal(imread(tmp_path / "again.png"), picture)


def test_picture_distinguishes_hidden_and_seen(drawn):
    batch = batch_of("dlr-ibm-spatial-spectral")
    path, figure = drawn(batch)
    # the column "seen" covers the patches that are hidden in these bands
    spectra, pictures = figure.subfigs
    nm = batch["target"].wavelength_nm
    shown = [int(np.abs(nm - wanted).argmin()) for wanted in plots.PLOTTED_NM]
    panels = np.array(pictures.axes[:12]).reshape(3, 4)
    for row, band in enumerate(shown):
        assert panels[row, 0].get_ylabel() == f"{nm[band]:.0f} nm"
        cover = np.isfinite(np.ma.filled(panels[row, 0].images[1].get_array(), np.nan))
        np.testing.assert_array_equal(cover, batch["hidden"][0, band].reshape(4, 4).repeat(4, axis=0).repeat(4, axis=1))
    partly = []
    # the spectra have a point for each visible band of the pixel's patch
    for axes, (window, row, col) in zip(spectra.axes, plots._pixels(batch["valid"]), strict=True):
        seen = ~batch["hidden"][window, :, (row // 4) * 4 + col // 4]
        partly.append(0 < seen.sum() < len(nm))
        points = axes.lines[2]
        np.testing.assert_array_equal(points.get_xdata(), nm[seen])
        np.testing.assert_array_equal(points.get_ydata(), batch["truth"][window, seen, row, col])
        spans = np.array([(span.get_x(), span.get_x() + span.get_width()) for span in axes.patches]).reshape(-1, 2)
        inside = ((spans[:, :1] <= nm) & (nm <= spans[:, 1:])).any(axis=0)
        np.testing.assert_array_equal(inside, ~seen)
    assert any(partly)  # by chance a whole patch may be hidden
    assert share_of_colour(path, HIDDEN) > 0.03


def test_picture_shows_the_source_bands_and_values(drawn):
    batch = batch_of("spectral", masking=("sensors",))
    _, figure = drawn(batch)
    for axes, (window, row, col) in zip(figure.subfigs[0].axes, plots._pixels(batch["valid"]), strict=True):
        np.testing.assert_array_equal(axes.lines[2].get_xdata(), batch["source"].wavelength_nm)
        np.testing.assert_array_equal(axes.lines[2].get_ydata(), batch["values"][window, :, row, col])


def test_lines_are_broken_at_gaps(drawn):
    gap = smooth_cubes(2, bands=100)
    nm = gap[0].grid.wavelength_nm
    kept = (nm < 1340) | (nm > 1450)
    batch = batch_of("dlr-ibm-spectral", cubes=[
        ArrayCube(cube.name, cube.scene, cube.grid.select(kept), cube.values[kept]) for cube in gap
    ])  # fmt: skip
    _, figure = drawn(batch)
    line = figure.subfigs[0].axes[0].lines[0]
    broken = np.isnan(line.get_ydata())
    assert broken.sum() == 1
    assert nm[kept][np.flatnonzero(broken)[0] - 1] == nm[nm < 1340].max()


def test_picture_has_legends_units_and_unknown_pixels(drawn):
    cubes = smooth_cubes(3)
    for cube in cubes:
        cube.values[:, 4:10, 2:9] = np.nan
    batch = batch_of("dlr-ibm-spectral", cubes=cubes)
    path, figure = drawn(batch)
    spectra, pictures = figure.subfigs
    assert [text.get_text() for text in spectra.legends[0].get_texts()] == ["true", "reconstructed", "seen", "hidden"]
    assert [text.get_text() for text in pictures.legends[0].get_texts()] == ["hidden", "not known"]
    assert not any(axes.get_legend() for axes in figure.axes)
    for axes in spectra.axes:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("wavelength (nm)", "reflectance")
    assert [axes.get_title() for axes in pictures.axes[:4]] == list(plots.COLUMNS)
    assert share_of_colour(path, UNKNOWN) > 0.01


def test_picture_accepts_windows_without_known_pixels(drawn):
    batch = batch_of("dlr-ibm-spatial-spectral")
    batch["valid"] = np.zeros_like(batch["valid"])
    path, _ = drawn(batch)
    assert path.is_file()
    batch["valid"][1, 3, 5] = True
    drawn(batch)


def test_failed_picture_leaves_no_file(tmp_path, monkeypatch):
    def fail(_canvas, path):
        path.write_bytes(b"half a pic")
        raise OSError("no space")

    monkeypatch.setattr(plots.FigureCanvasAgg, "print_png", fail)
    batch = batch_of("dlr-ibm-spectral")
    with pytest.raises(OutputError, match=r"picture\.png could not be written \(no space\)"):
        plot_batch(batch, batch["truth"], tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_difference_is_reconstructed_minus_true(drawn):
    batch = batch_of("dlr-ibm-spectral")
    _, figure = drawn(batch, batch["truth"] + np.float32(0.02))
    difference = figure.subfigs[1].axes[3].images[0].get_array()
    np.testing.assert_allclose(difference, 0.02, atol=1e-6)
