"""Staging: files move into place when complete, and only the same conversion resumes."""

from contextlib import ExitStack, suppress

import pytest

from ms2hs.conversion.staging import Staging, staging_folder
from ms2hs.errors import OutputError

INPUTS = {"scene": "a", "rows": 100}


def stage(path, *, resume, inputs=INPUTS):
    return Staging(path, inputs, resume=resume)


def interrupt(path, *, resume, rows=(256,), error=KeyboardInterrupt):
    with suppress(error), stage(path, resume=resume) as staging:
        staging.path("cube.blocks").mkdir()
        for row in rows:
            staging.record(row, {"valid": row})
        raise error


def test_publish_moves_the_output_last(tmp_path, monkeypatch):
    path = tmp_path / "cube.tif"
    seen = []
    with stage(path, resume=False) as staging:
        for name in ("cube.tif", "cube.json"):
            staging.path(name).write_text(name)
        link = type(path).hardlink_to

        def watch(target, source):
            seen.append(target.name)
            return link(target, source)

        monkeypatch.setattr(type(path), "hardlink_to", watch)
        staging.publish(["cube.tif", "cube.json"])
    assert seen == ["cube.json", "cube.tif"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cube.json", "cube.tif"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_staging_folder_is_removed_unless_work_can_be_resumed(tmp_path, error):
    interrupt(tmp_path / "cube.tif", resume=False, error=error)
    assert not list(tmp_path.iterdir())
    interrupt(tmp_path / "cube.tif", resume=True, rows=(), error=error)  # no finished row
    assert not list(tmp_path.iterdir())
    interrupt(tmp_path / "cube.tif", resume=True, error=error)
    assert [file.name for file in tmp_path.iterdir()] == [".cube.tif.part"]


def test_staging_folder_is_removed_after_a_signal_at_its_creation(tmp_path, monkeypatch):
    def stopped(_stack):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(ExitStack, "pop_all", stopped)
        Staging(tmp_path / "cube.tif", {}, resume=True).__enter__()
    assert list(tmp_path.iterdir()) == []
    with Staging(tmp_path / "cube.tif", {}, resume=False) as staging:
        assert staging.folder.is_dir()


def test_states_skip_an_incomplete_line_of_the_journal(tmp_path):
    path = tmp_path / "cube.tif"
    interrupt(path, resume=True, rows=(256, 512))
    with (staging_folder(path) / "journal.jsonl").open("a") as journal:
        journal.write('\n{"rows": 768, "sta')
    with suppress(KeyboardInterrupt), stage(path, resume=True) as staging:
        assert staging.states() == {256: {"valid": 256}, 512: {"valid": 512}}
        assert staging.path("cube.blocks").is_dir()
        staging.record(768, {"valid": 1})
        raise KeyboardInterrupt
    with stage(path, resume=True) as staging:
        assert list(staging.states()) == [256, 512, 768]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["another scene", "no resume"])
def test_staging_starts_over_with_other_inputs_or_without_resume(tmp_path, how):
    path = tmp_path / "cube.tif"
    interrupt(path, resume=True)
    inputs = INPUTS | {"scene": "b"} if how == "another scene" else INPUTS
    with stage(path, resume=how == "another scene", inputs=inputs) as staging:
        assert staging.states() == {}
        assert not staging.path("cube.blocks").exists()
        assert bool(staging.notes) == (how == "another scene")


def test_staging_folder_is_locked(tmp_path):
    path = tmp_path / "cube.tif"
    with stage(path, resume=True), pytest.raises(OutputError, match="one at a time"), stage(path, resume=True):
        pass


def test_staging_folder_that_cannot_be_created_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be created"), stage(tmp_path / "no" / "cube.tif", resume=False):
        pass
