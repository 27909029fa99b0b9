"""Settings: the file, the environment, and one clear line for what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.settings import Settings, SettingsError, checked, load
from qc_daemon.settings.problems import paths
from tests.support.command_line import qc_daemon_here


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "qc.toml"
    path.write_text(text)
    return path


def test_paths_resolve_from_the_file(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[store]\nurl = "sqlite:///a/qc.db"\nspool = "spool"\n'))
    assert settings.store.url == f"sqlite:///{tmp_path}/a/qc.db"
    assert settings.store.spool == tmp_path / "spool"


def test_an_absolute_database_path_stays(tmp_path: Path) -> None:
    settings = load(write(tmp_path, f'[store]\nurl = "sqlite:///{tmp_path}/qc.db"\n'))
    assert settings.store.url == f"sqlite:///{tmp_path}/qc.db"


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_DAEMON_RECEIVE__PORT", "4711")
    settings = load(write(tmp_path, '[receive]\nport = 104\nae_title = "HERE"\n'))
    assert settings.receive.port == 4711
    assert settings.receive.ae_title == "HERE"


def test_defaults_need_no_file() -> None:
    settings = load(None)
    assert settings.receive.host == "127.0.0.1"
    assert settings.store.url.endswith("var/qc.db")


WEB = '[[destination]]\nname = "a"\nkind = "dicomweb"\nurl = "https://vna/web"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[receive]\nportt = 1\n", "receive.portt is unknown"),
        ("[receive]\nport = 70000\n", "receive.port"),
        ('[receive]\nae_title = "A TITLE THAT IS TOO LONG"\n', "16 printable"),
        ('[[receive.peer]]\nae_title = "US1"\naddress = "10.0.0.0/99"\n', "receive.peer.0.address"),
        ('[score]\ndevice = "gpu"\n', "score.device: a device is auto, cpu, cuda or cuda:N"),
        ("[receive\n", "not valid TOML"),
        ('[[receive.peer]]\nae_title = "US1"\ncertificate = "ab:cd"\n', "64 hexadecimal digits"),
        (
            f'[[receive.peer]]\nae_title = "US1"\ncertificate = "{"ab" * 32}"\n',
            "needs [receive.tls]",
        ),
        ('[receive.tls]\ncertificate = "c"\nkey = "k"\n', "receive.tls.ca is missing"),
        ('[receive.tls]\nkey = "k"\n', "receive.tls.certificate"),
        ('[[destination]]\nname = "a"\n[[destination]]\nname = "a"\n', "share a name"),
        ('[[destination]]\nname = "a"\nkind = "folder"\n', "needs folder"),
        ('[[destination]]\nname = "a"\nobjects = ["pixels"]\n', "destination.0.objects.0"),
        ('[[destination]]\nname = "a"\ncommitment = "on"\n', "destination.0.commitment"),
        (
            '[[destination]]\nname = "a"\nkind = "folder"\nfolder = "f"\ncommitment = "required"\n',
            "needs kind dicom",
        ),
        ('[[destination]]\nname = "a"\nkind = "dicomweb"\n', "needs url"),
        (WEB + 'commitment = "required"\n', "needs kind dicom"),
        (WEB.replace("https://vna/web", "vna:8042"), "destination.0.url"),
        (WEB.replace("https://", "https://me:secret@"), "no user, query or fragment"),
        (WEB.replace("https://vna", "https://vna:99999"), "destination.0.url"),
        (WEB + 'token = "abc"\n', "destination.0.token"),
        (WEB + 'user = "me"\n', "user and password go together"),
        (WEB + 'user = "a:b"\npassword = "env:P"\n', "destination.0.user"),
        (WEB + 'token = "env:T"\nuser = "me"\npassword = "env:P"\n', "exclude each other"),
        (WEB.replace("https", "http") + "[destination.tls]\n", "tls needs a url with https"),
        ('[[destination]]\nname = "a"\ntoken = "env:T"\n', "token needs kind dicomweb"),
        ('[[destination]]\nname = "a"\nmax_associations = 0\n', "max_associations"),
        ('[[destination]]\nname = "a"\nobjects_per_minute = 0\n', "objects_per_minute"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_names_a_secret_and_never_quotes_it(tmp_path: Path) -> None:
    destination = load(write(tmp_path, WEB + 'token = "file:secrets/vna"\n')).destination[0]
    assert destination.token == f"file:{tmp_path}/secrets/vna"
    assert destination.url == "https://vna/web"
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, WEB + 'token = "SECRET"\n'))
    assert "SECRET" not in str(caught.value)


PACS = '[[destination]]\nname = "pacs"\n'
RULE = PACS + '[[rule]]\nname = "r"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (RULE + 'to = ["pacs"]\n', "rule.0.objects"),
        (RULE + 'objects = ["sr"]\n', "rule r: give either to"),
        (RULE + 'objects = ["sr"]\nto = ["pacs"]\ndrop = true\n', "rule r: give either to"),
        (RULE + 'objects = ["sr"]\nto = ["pax"]\n', "rule r: there is no destination pax"),
        (RULE + 'objects = ["pixels"]\nto = ["pacs"]\n', "rule.0.objects.0"),
        (RULE + 'objects = ["sr"]\ndrop = true\nstation = []\n', "rule.0.station"),
        (RULE + 'objects = ["sr"]\ndrop = true\nstation = ""\n', "rule.0.station"),
        (RULE + 'objects = ["sr"]\ndrop = true\nview = ["FACE"]\n', "rule.0.view.0"),
        (RULE + 'objects = ["sr"]\ndrop = true\nverdict = ["bad"]\n', "rule.0.verdict.0"),
        (RULE + 'objects = ["sr"]\ndrop = true\nstations = "V"\n', "stations is unknown"),
        (
            RULE + 'objects = ["source", "sr"]\nto = ["pacs"]\nview = ["NT"]\n',
            "rule r: source is forwarded before it is scored",
        ),
        (
            RULE + 'objects = ["source"]\ndrop = true\nverdict = ["review"]\n',
            "rule r: source is forwarded before it is scored",
        ),
        (
            RULE + 'objects = ["sr"]\ndrop = true\n[[rule]]\nname = "r"\n'
            'objects = ["sr"]\ndrop = true\n',
            "two rules share a name",
        ),
    ],
)
def test_what_is_wrong_with_a_rule_is_one_line(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_survives_the_way_to_a_child_process(tmp_path: Path) -> None:
    conditions = 'view = ["NT"]\nverdict = ["review"]\nstation = ["A*", "B*"]\nstudy = "*NT*"\n'
    settings = load(write(tmp_path, RULE + conditions + 'objects = ["sr"]\nto = ["pacs"]\n'))
    assert settings.rule[0].study == ["*NT*"]
    assert Settings(**settings.model_dump(mode="json")).rule == settings.rule


def test_tls_files_resolve_from_the_file(tmp_path: Path) -> None:
    peer = f'[[receive.peer]]\nae_title = "US1"\ncertificate = "{":".join(["AB"] * 32)}"\n'
    files = '[receive.tls]\ncertificate = "own.pem"\nkey = "/keys/own.key"\nca = "pki/ca.pem"\n'
    receive = load(write(tmp_path, files + peer)).receive
    assert receive.tls is not None
    assert receive.tls.certificate == tmp_path / "own.pem"
    assert receive.tls.key == Path("/keys/own.key")
    assert receive.tls.ca == tmp_path / "pki" / "ca.pem"
    assert (receive.tls.mutual, receive.tls.minimum, receive.tls.port) == ("required", "1.2", 2762)
    assert receive.peer[0].certificate == "ab" * 32


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        load(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[receive]\nport = true\n", "receive.port: give a value, not true or false"),
        ("[receive]\nport = 1.5\n", "receive.port: give a whole number"),
        ("[jobs]\nbackoff_cap_seconds = inf\n", "backoff_cap_seconds: give a number that is not"),
        ("[jobs]\nbackoff_seconds = nan\n", "backoff_seconds: give a number that is not inf"),
        ("[receive]\nquiet_seconds = 1e12\n", "receive.quiet_seconds: give at most 86400"),
        ("[score]\nthreads = 100000\n", "score.threads: give at most 1024"),
        ("[store]\nkeep_pixels_days = -1\n", "store.keep_pixels_days: give at least 0"),
        (
            '[store]\nkeep_pixels_days = "long"\n',
            "keep_pixels_days: give a whole number of days, or",
        ),
        (
            "[receive.pressure]\nsoft_free_percent = 4\n",
            "receive.pressure: soft_free_percent must not be below hard_free_percent",
        ),
        (
            "[receive.pressure]\nhard_free_megabytes = 20000\n",
            "soft_free_megabytes must not be",
        ),
        (
            "[receive.pressure]\nsoft_queue_minutes = 20\nhard_queue_minutes = 10\n",
            "soft_queue_minutes must not be above hard_queue_minutes",
        ),
        ('[[destination]]\nname = "pacs"\nobjects = []\n', "destination pacs: nothing goes there"),
        (
            '[[destination]]\nname = "pacs"\nport = 70000\n',
            "destination pacs: setting destination.0.",
        ),
        ('[[destination]]\nname = "a b"\n', "1 to 64 letters, digits"),
        ('[destination]\nname = "pacs"\n', "write its table as [[destination]], with two brackets"),
        ('[receive.peer]\nae_title = "US1"\n', "write its table as [[receive.peer]], with two"),
        ('[rule]\nname = "r"\n', "write its table as [[rule]], with two brackets"),
        ("receive = 5\n", "write it as a table, [receive]"),
        ("[recieve]\nport = 1\n", "setting recieve is unknown; did you mean receive?"),
        ("[receive]\nprt = 1\n", "receive.prt is unknown; did you mean receive.port?"),
        ("[store]\nquiet_seconds = 1\n", "did you mean receive.quiet_seconds?"),
        (
            WEB + 'token = "abc"\n',
            "destination a: setting destination.0.token: give env:NAME or file:",
        ),
        (RULE + 'objects = ["sr"]\nto = ["pasc"]\n', "no destination pasc; did you mean pacs?"),
        (WEB + "verdict = 1\n", "destination.0.verdict is unknown"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_fix(
    tmp_path: Path, text: str, named: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert named in str(caught.value)
    assert len(caught.value.lines) == 1, caught.value.lines


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    text = "[receive]\nport = 70000\nprt = 1\n[score]\nthreads = -1\n"
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert len(caught.value.lines) == 3
    command = qc_daemon_here("serve", "--config", write(tmp_path, text))
    assert command.returncode == 2
    assert [line.split()[0] for line in command.stderr.splitlines()] == ["error:"] * 3
    text = '[[destination]]\nname = "a"\nkind = "folder"\n' * 2
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert len(caught.value.lines) == 3


def test_one_value_may_stand_for_a_list_of_one(tmp_path: Path) -> None:
    text = 'view = "NT"\nverdict = "review"\nobjects = "sr"\nto = "pacs"\n'
    (rule,) = load(write(tmp_path, RULE + text)).rule
    assert (rule.view, rule.verdict, rule.objects, rule.to) == (
        ["NT"],
        ["review"],
        ["sr"],
        ["pacs"],
    )


def test_a_destination_may_get_objects_by_rules_only(tmp_path: Path) -> None:
    text = '[[destination]]\nname = "qa"\nobjects = []\n[[rule]]\nname = "r"\n'
    assert load(write(tmp_path, text + 'objects = "sr"\nto = "qa"\n')).destination[0].objects == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_file_in_another_encoding_is_refused_with_the_fix(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "qc.toml"
    path.write_bytes('# größe ÿ\n[receive]\nhost = "é"\n'.encode(encoding))
    with pytest.raises(SettingsError, match="save the file as UTF-8"):
        load(path)


def test_only_dicomweb_says_that_it_gives_back(tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text('[[destination]]\nname = "pacs"\nretrieve = true\n')
    with pytest.raises(SettingsError, match="retrieve needs kind dicomweb"):
        load(config)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "qc.toml"
    path.write_bytes("[receive]\nport = 4711\n".encode("utf-8-sig"))
    assert load(path).receive.port == 4711


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("QC_DAEMON_RECIEVE__PORT", "1", "did you mean QC_DAEMON_RECEIVE__PORT?"),
        ("QC_DAEMON_RECEIVE__PROT", "1", "did you mean QC_DAEMON_RECEIVE__PORT?"),
        ("QC_DAEMON_RECEIVE_PORT", "1", "did you mean QC_DAEMON_RECEIVE__PORT?"),
        ("QC_DAEMON_DESTINATON", "[]", "did you mean QC_DAEMON_DESTINATION?"),
        ("qc_daemon_recieve__port", "1", "did you mean QC_DAEMON_RECEIVE__PORT?"),
        ("QC_DAEMON_XYZZY", "1", "remove it; see docs/settings.md"),
        ("QC_DAEMON_PORT", "104", "names no setting"),
    ],
)
def test_a_slip_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(None)
    assert name in str(caught.value)
    assert hint in str(caught.value)


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_DAEMON_CONFIG", str(tmp_path / "one.toml"))
    process = qc_daemon_here("queue", "list")
    assert (process.returncode, process.stderr) == (
        2,
        f"error: settings file {tmp_path}/one.toml does not exist; see --config\n",
    )
    process = qc_daemon_here("queue", "list", "--config", tmp_path / "two.toml")
    assert f"{tmp_path}/two.toml does not exist" in process.stderr


def test_what_kubernetes_sets_for_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_DAEMON_PORT", "tcp://10.0.0.1:104")
    monkeypatch.setenv("QC_DAEMON_PORT_104_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("QC_DAEMON_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("QC_DAEMON_SERVICE_PORT_DICOM", "104")
    load(None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("QC_DAEMON_DESTINATION", "SECRET", "QC_DAEMON_DESTINATION is not valid JSON"),
        ("QC_DAEMON_RECEIVE", "[", "QC_DAEMON_RECEIVE is not valid JSON"),
        ("QC_DAEMON_RECEIVE__PORT", "SECRET", "receive.port: give a whole number"),
    ],
)
def test_a_bad_value_in_the_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(None)
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert len(caught.value.lines) == 1


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["pacs", "sr", "env:A", "10.0.0.0/8", "https://a/b", "forever"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([path[-1] for path in paths(Settings)]) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(list(Settings.model_fields)), _VALUES))
def test_whatever_a_file_says_it_is_settings_or_lines(data: dict[str, Any]) -> None:
    problems: tuple[str, ...] = ("none",)
    try:
        checked(data)
    except SettingsError as error:
        problems = error.lines
    assert problems
    assert all(problems)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[score]\nthreads = 100000", "score.threads"),
        ("[receive.pressure]\nsoft_free_percent = 5\nhard_free_percent = 10", "soft_free_percent"),
        (
            "[receive.pressure]\nsoft_free_megabytes = 1\nhard_free_megabytes = 2",
            "soft_free_megabytes",
        ),
        ('[store]\nscrub_at = "at night"', "store.scrub_at"),
        ("[store]\nscrub_megabytes_per_second = -1", "store.scrub_megabytes_per_second"),
    ],
)
def test_marks_and_numbers_that_cannot_be_meant_are_refused(
    tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "qc.toml").write_text(text)
    with pytest.raises(SettingsError, match=named):
        load(tmp_path / "qc.toml")


def test_a_hard_queue_limit_alone_is_the_soft_limit_too(tmp_path: Path) -> None:
    path = tmp_path / "qc-daemon.toml"
    path.write_text("[receive.pressure]\nhard_queue_minutes = 10\n")
    pressure = load(path).receive.pressure
    assert (pressure.soft_queue_minutes, pressure.hard_queue_minutes) == (10, 10)
