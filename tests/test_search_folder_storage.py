"""Trials in databases and journals: no password is told, readers write nothing."""

import json
import os
import sqlite3
import stat
import sys

import optuna
import pytest
import sqlalchemy

import search
from search import Budget
from search.folder.journal import open_journal, read_journal
from search.folder.storage import open_storage, read_storage, without_password

SECRET = "s3cr3t/&"
ENCODED = "s3cr3t%2F%26"


def run(network, example, **changes):
    arguments = {"n_trials": 1, "max_sequence_length": 2, "measure_seconds": 0, "progress": False}
    return search.run(network, example, **{"budget": Budget(flops=0.6), **arguments, **changes})


@pytest.fixture
def stored(small_network, small_input, tmp_path):
    """A finished run whose trials are in a database beside it."""
    url = f"sqlite:///{tmp_path}/study.db"
    result = run(small_network, small_input, run=tmp_path / "run", storage=url)
    return tmp_path / "run", url, result


def test_half_a_line_of_a_killed_writer_is_cut_by_the_next_one(tmp_path):
    storage = open_journal(tmp_path / "study.log")
    study = optuna.create_study(storage=storage, study_name="one")
    with (tmp_path / "study.log").open("ab") as file:
        file.write(b'{"op_code":2,"worker_id":"x')
    study.set_user_attr("whole", 1)
    study.set_user_attr("also", 2)
    again = optuna.load_study(study_name="one", storage=read_journal(tmp_path / "study.log"))
    assert again.user_attrs == {"whole": 1, "also": 2}


def test_the_disk_is_waited_for_where_a_trial_ends(tmp_path, monkeypatch):
    waited, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: waited.append(file) or fsync(file))
    study = optuna.create_study(storage=open_journal(tmp_path / "study.log"))
    trial = study.ask()
    trial.suggest_int("x", 0, 9)
    trial.set_user_attr("ranks", [1, 2])
    assert waited == []
    study.tell(trial, 1.0)
    assert len(waited) == 1
    study.add_trial(optuna.create_trial(value=2.0))
    assert len(waited) == 2


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        (f"postgresql+psycopg://me:{ENCODED}@host:5/db", "postgresql+psycopg://me@host:5/db"),
        (
            f"postgresql://me@host/db?password={ENCODED}&sslmode=on",
            "postgresql://me@host/db?sslmode=on",
        ),
        (f"mysql://me@host/db?passwd={ENCODED}", "mysql://me@host/db"),
    ],
)
def test_a_url_is_written_without_its_password(url, public):
    assert without_password(url) == public
    assert without_password(public) == public


@pytest.mark.parametrize("open_", [open_storage, read_storage])
@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{ENCODED}@127.0.0.1:1/db",
        f"no_such_driver://me:{ENCODED}@host/db",
        f"postgresql://me@127.0.0.1:1/db?password={ENCODED}",
        f"{SECRET} is no url",
    ],
)
def test_an_error_does_not_tell_the_password(open_, url):
    with pytest.raises(ValueError, match=r"a storage reads|must (open|have its driver)") as caught:
        open_(url)
    text = f"{caught.value} {caught.value.__cause__}"
    assert SECRET not in text
    assert ENCODED not in text
    assert "\n" not in str(caught.value)


def test_a_record_tells_no_password_and_a_new_one_does_not_lock_it(
    small_network, small_input, tmp_path, monkeypatch
):
    database = f"sqlite:///{tmp_path}/study.db"

    def connected(url):
        """A database that takes any password."""
        assert "@" in url
        return open_storage(database)

    monkeypatch.setattr("search.folder.run_folder.open_storage", connected)
    for password in (ENCODED, "another"):
        url = f"postgresql://me:{password}@host/db"
        run(small_network, small_input, run=tmp_path / "run", storage=url)
    text = (tmp_path / "run" / "run.json").read_text()
    assert json.loads(text)["settings"]["storage"] == "postgresql://me@host/db"
    assert not any(secret in text for secret in (SECRET, ENCODED, "another"))


def test_a_recorded_database_is_opened_only_by_who_gives_it_again(stored):
    folder, url, result = stored
    assert search.load(folder, storage=url).best == result.best
    with pytest.raises(
        ValueError, match=f"in the database {url}; give its URL again, as `storage="
    ):
        search.load(folder)
    with pytest.raises(ValueError, match=f"are in {url}, got the storage sqlite:///other.db"):
        search.load(folder, storage="sqlite:///other.db")


def test_a_reader_makes_no_database(stored, tmp_path):
    folder = stored[0]
    elsewhere = tmp_path / "elsewhere.db"
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["storage"] = f"sqlite:///{elsewhere}"
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="give its URL again"):
        search.load(folder)
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.db must exist, but does not"):
        search.load(folder, storage=f"sqlite:///{elsewhere}")
    assert not elsewhere.exists()
    sqlite3.connect(elsewhere).close()
    elsewhere.touch()
    with pytest.raises(ValueError, match=r"must open, but it raised|must hold a finished search"):
        search.load(folder, storage=f"sqlite:///{elsewhere}")
    assert elsewhere.stat().st_size == 0


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("trials", "datetime_start", "yesterday"),
        ("trials", "state", "9"),
        ("trial_params", "distribution_json", "{"),
        ("trial_user_attributes", "value_json", "[1"),
        ("study_directions", "direction", "UP"),
    ],
)
def test_a_cell_that_cannot_be_read_is_damage_of_the_database_named(stored, table, column, value):
    folder, url, _ = stored
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute(f"UPDATE {table} SET {column} = ?", (value,))
    with pytest.raises(ValueError, match=rf"^the storage {url} must hold .* is damaged") as caught:
        search.load(folder, storage=url)
    assert len(str(caught.value).splitlines()) == 1


def test_a_database_that_lacks_a_table_is_named(stored):
    folder, url, _ = stored
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE trials")
    with pytest.raises(ConnectionError, match=rf"^the storage {url} must stay .* no such table"):
        search.load(folder, storage=url)


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("SELECT label FROM nowhere", sqlalchemy.exc.OperationalError),
        ("SELECT 'yesterday' AS label", ValueError),  # which is no date
    ],
)
def test_an_error_of_the_users_own_database_is_not_told_of_the_storage(
    small_network, small_input, tmp_path, query, kind
):
    labels = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.StaticPool)
    dated = sqlalchemy.text(query).columns(label=sqlalchemy.DateTime)

    def batches():
        with labels.connect() as connection:
            yield connection.execute(dated).scalar_one()

    try:
        with pytest.raises(kind, match=r"^(\(sqlite3.*\) no such table|Invalid isoformat)"):
            run(
                small_network,
                small_input,
                storage=f"sqlite:///{tmp_path}/study.db",
                calibration=batches(),
            )
    finally:
        labels.dispose()


def state_of(folder):
    """Names, contents and times of all that is in a folder."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())
    }


def test_reading_a_run_writes_nothing(small_network, small_input, tmp_path):
    folder = tmp_path / "run"
    result = run(small_network, small_input, run=folder)
    with (folder / "study.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "half')  # somebody is writing it
    (folder / ".study.lock").unlink()
    before = state_of(folder)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        loaded = search.load(folder)
        assert loaded.best == result.best
        assert loaded.pareto_front().equals(result.pareto_front())
    finally:
        folder.chmod(stat.S_IRWXU)
    assert state_of(folder) == before
    assert os.listdir(tmp_path) == ["run"]


def test_a_run_without_its_journal_is_named(small_network, small_input, tmp_path):
    run(small_network, small_input, run=tmp_path / "run")
    (tmp_path / "run" / "study.log").unlink()
    with pytest.raises(FileNotFoundError, match=r"study\.log must be the journal of a study, but"):
        search.load(tmp_path / "run")
    assert not (tmp_path / "run" / "study.log").exists()


@pytest.mark.parametrize(
    "query", ["odbc_connect=UID%3Dme%3BPWD%3Dhunter2", "pwd=hunter2", "passWD=hunter2"]
)
def test_of_a_query_only_what_is_harmless_is_written(query):
    url = f"mysql://me@host/db?charset=utf8&{query}"
    assert without_password(url) == "mysql://me@host/db?charset=utf8"


@pytest.mark.parametrize(
    ("url", "module", "what"),
    [
        (
            "postgresql+asyncpg://me@host/db",
            "asyncpg",
            r"pip install 'sekron\[postgresql\]' and",
        ),
        ("mysql+no_such_driver://me@host/db", "", ""),
        ("oracle+cx_oracle://me@host/db", "cx_Oracle", "install the package that has it"),
    ],
)
def test_a_driver_that_is_missing_is_named(monkeypatch, url, module, what):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"must have its driver installed, but the module '{module}' is missing.*{what}"
    with pytest.raises(ValueError, match=message if module else "must open, but it raised"):
        open_storage(url)


def test_a_file_that_is_named_by_a_url_is_read_again(small_network, small_input, tmp_path):
    url = f"sqlite:///file:{tmp_path}/study.db?uri=true"
    result = run(small_network, small_input, run=tmp_path / "run", storage=url)
    assert search.load(tmp_path / "run", url).candidates().equals(result.candidates())
    (tmp_path / "study.db").unlink()
    with pytest.raises(FileNotFoundError, match="must exist, but does not"):
        read_storage(url)
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"families": ("chain", "sekron")},
        {"max_sequence_length": 3},
        {"rank_multiple": 2},
    ],
)
def test_searches_of_other_structures_do_not_mix(small_network, small_input, tmp_path, change):
    url = f"sqlite:///{tmp_path}/study.db"
    own = {"families": ("sekron", "chain"), "storage": url}
    run(small_network, small_input, run=tmp_path / "one", **own)
    told = r"no other search under the name 'sekron/.*', but the one there is of other structures"
    with pytest.raises(ValueError, match=told):
        run(small_network, small_input, run=tmp_path / "two", **own | change)
    run(small_network, small_input, run=tmp_path / "three", name="two", **own | change)


@pytest.mark.parametrize(
    ("change", "n_wide"), [({"sampler": "random"}, 1), ({"seed": 1}, 1), ({}, 2)], ids=str
)
def test_searches_by_another_sampler_or_for_another_input_do_not_mix(
    small_network, small_input, tmp_path, change, n_wide
):
    """Without a folder, too, whose record would tell."""
    url = f"sqlite:///{tmp_path}/study.db"
    example = small_input.repeat(1, 1, 1, n_wide)
    run(small_network, small_input, storage=url)
    told = r"the name 'sekron/.*', but the one there is by another sampler or seed, or for another"
    with pytest.raises(ValueError, match=told):
        run(small_network, example, storage=url, **change)
    run(small_network, small_input.repeat(3, 1, 1, 1), storage=url)  # costs are of one image
    alone = run(small_network, example, **change)
    result = run(small_network, example, storage=url, name="two", **change)
    assert result.candidates().equals(alone.candidates())
