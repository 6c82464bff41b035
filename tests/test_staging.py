"""Results that are being made: what stays of them, and whether another process may go on."""

from contextlib import suppress

import pytest

from ms2hs.conversion.staging import Staging, directory_of
from ms2hs.errors import OutputError

FACTS = {"scene": "a", "rows": 100}


def begin(path, *, resume, facts=FACTS):
    return Staging(path, facts, resume=resume)


def stop(path, *, resume, rows=(256,), error=KeyboardInterrupt):
    with suppress(error), begin(path, resume=resume) as unfinished:
        unfinished.place("blocks").mkdir()
        for row in rows:
            unfinished.note(row, {"valid": row})
        raise error


def test_files_come_to_their_names_the_most_important_last(tmp_path, monkeypatch):
    path = tmp_path / "cube.tif"
    seen = []
    with begin(path, resume=False) as unfinished:
        for name in ("cube.tif", "cube.json"):
            unfinished.place(name).write_text(name)
        replace = type(path).replace

        def watch(source, target):
            seen.append(source.name)
            return replace(source, target)

        monkeypatch.setattr(type(path), "replace", watch)
        unfinished.put([unfinished.place(name) for name in ("cube.tif", "cube.json")])
    assert seen == ["cube.json", "cube.tif"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cube.json", "cube.tif"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_stays_unless_it_was_asked_to(tmp_path, error):
    stop(tmp_path / "cube.tif", resume=False, error=error)
    assert not list(tmp_path.iterdir())
    stop(tmp_path / "cube.tif", resume=True, rows=(), error=error)  # nothing to go on with
    assert not list(tmp_path.iterdir())
    stop(tmp_path / "cube.tif", resume=True, error=error)
    assert [file.name for file in tmp_path.iterdir()] == [".cube.tif.part"]


def test_what_was_noted_comes_back_as_far_as_it_is_whole(tmp_path):
    path = tmp_path / "cube.tif"
    stop(path, resume=True, rows=(256, 512))
    with (directory_of(path) / "journal.jsonl").open("a") as journal:
        journal.write('\n{"rows": 768, "sta')
    with suppress(KeyboardInterrupt), begin(path, resume=True) as unfinished:
        assert unfinished.states() == {256: {"valid": 256}, 512: {"valid": 512}}
        assert unfinished.place("blocks").is_dir()
        unfinished.note(768, {"valid": 1})
        raise KeyboardInterrupt
    with begin(path, resume=True) as unfinished:
        assert list(unfinished.states()) == [256, 512, 768]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["another scene", "not asked"])
def test_what_does_not_fit_is_begun_again(tmp_path, how):
    path = tmp_path / "cube.tif"
    stop(path, resume=True)
    facts = FACTS | {"scene": "b"} if how == "another scene" else FACTS
    with begin(path, resume=how == "another scene", facts=facts) as unfinished:
        assert unfinished.states() == {}
        assert not unfinished.place("blocks").exists()
        assert bool(unfinished.notes) == (how == "another scene")


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "cube.tif"
    with begin(path, resume=True), pytest.raises(OutputError, match="one at a time"), begin(path, resume=True):
        pass


def test_a_place_that_cannot_be_is_told(tmp_path):
    with pytest.raises(OutputError, match="cannot be made"), begin(tmp_path / "no" / "cube.tif", resume=False):
        pass
