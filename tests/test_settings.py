"""Settings: the file, the environment, and one clear line for what is wrong."""

from pathlib import Path

import pytest

from qc_daemon.settings import Settings, SettingsError, load


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


def test_a_secret_is_named_never_told(tmp_path: Path) -> None:
    found = load(write(tmp_path, WEB + 'token = "file:secrets/vna"\n')).destination[0]
    assert found.token == f"file:{tmp_path}/secrets/vna"
    assert found.url == "https://vna/web"
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
