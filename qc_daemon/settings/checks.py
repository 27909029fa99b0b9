"""What is wrong with settings although each value by itself is not."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from qc_daemon.settings.destinations import DestinationSettings, RuleSettings
from qc_daemon.settings.problems import nearest
from qc_daemon.settings.receive import ReceiveSettings

if TYPE_CHECKING:
    from qc_daemon.settings.service import Settings


# Kinds of destination that are called by HTTP.
_WEB = ("dicomweb", "fhir")


def find_problems(settings: "Settings") -> Iterator[str]:
    """What is wrong although each value by itself is not."""
    names = [destination.name for destination in settings.destination]
    if len(names) != len(set(names)):
        yield "destination.name: two destinations share a name; rename one"
    rule_destinations = {name for rule in settings.rule for name in rule.to}
    for destination in settings.destination:
        yield from _destination_problems(destination)
        if not destination.objects and destination.name not in rule_destinations:
            yield (
                f"destination {destination.name}: nothing goes there; list something in objects,"
                " or name it in a rule's to"
            )
    yield from _rule_problems(settings.rule, names)
    fhir = {each.name for each in settings.destination if each.kind == "fhir"}
    for rule in settings.rule:
        if fhir & set(rule.to) and set(rule.objects) - {"sr"}:
            yield f"rule {rule.name}: {min(fhir & set(rule.to))} takes reports (sr) only"
    yield from _certificate_problems(settings.receive)
    yield from _digest_problems(settings)
    yield from _hl7_problems(settings)


def _hl7_problems(settings: "Settings") -> Iterator[str]:
    """Senders of HL7 messages can be verified as the settings ask."""
    tls = settings.hl7.tls
    if tls is not None and tls.mutual != "none" and tls.ca is None:
        yield (
            "hl7.tls.ca is missing: name the authorities of the senders' certificates,"
            ' or set hl7.tls.mutual = "none"'
        )


def _digest_problems(settings: "Settings") -> Iterator[str]:
    """Digests go to a server that is named, from an address, to each recipient once."""
    mail = settings.mail
    if mail.host is not None and mail.sender is None:
        yield "mail.sender is missing: give the address that mails are from"
    if mail.host is None and mail.recipient:
        yield "mail.host is missing: name the mail server, or remove mail.recipient"
    if (mail.user is None) != (mail.password is None):
        yield "mail: user and password go together; give both or neither"
    if mail.user is not None and mail.security == "none":
        yield "mail: a password is not sent without TLS; set security to starttls or tls"
    keys = [(each.address, each.person) for each in mail.recipient]
    if len(keys) != len(set(keys)):
        yield "mail.recipient: an address is listed twice for the same report; remove one"
    names = [hook.name for hook in settings.webhook]
    if len(names) != len(set(names)):
        yield "webhook.name: two webhooks share a name; rename one"


def _destination_problems(destination: DestinationSettings) -> Iterator[str]:
    """Each destination can be reached as its kind asks."""
    name, kind = f"destination {destination.name}", destination.kind
    if kind == "folder" and destination.folder is None:
        yield f"{name}: kind folder needs folder = PATH"
    if kind != "folder" and destination.layout != "flat":
        yield f"{name}: layout needs kind folder; remove layout or change kind"
    if kind in _WEB and destination.url is None:
        yield f'{name}: kind {kind} needs url = "https://..."'
    if kind == "fhir" and set(destination.objects) - {"sr"}:
        yield f'{name}: kind fhir takes reports only; set objects = ["sr"]'
    if kind != "dicom" and destination.commitment == "required":
        yield f"{name}: commitment required needs kind dicom; leave commitment away"
    web_keys = [key for key in ("url", "token", "user", "password") if getattr(destination, key)]
    if kind not in _WEB and web_keys:
        yield f"{name}: {web_keys[0]} needs kind dicomweb or fhir; remove it or fix kind"
    if kind != "dicomweb" and destination.retrieve:
        yield f"{name}: retrieve needs kind dicomweb; remove it"
    if (destination.user is None) != (destination.password is None):
        yield f"{name}: user and password go together; give both or neither"
    if destination.token is not None and destination.user is not None:
        yield f"{name}: token and user exclude each other; remove one"
    secure = (destination.url or "").startswith("https:")
    if kind in _WEB and destination.tls is not None and not secure:
        yield f"{name}: tls needs a url with https"


def _rule_problems(rules: Sequence[RuleSettings], destinations: Collection[str]) -> Iterator[str]:
    """Each rule says one thing that can be done."""
    names = [rule.name for rule in rules]
    if len(names) != len(set(names)):
        yield "rule.name: two rules share a name; rename one"
    for rule in rules:
        if bool(rule.to) == rule.drop:
            yield f"rule {rule.name}: give either to = [...] or drop = true"
        unknown = next((name for name in rule.to if name not in destinations), None)
        if unknown is not None:
            suggestion = nearest(unknown, destinations)
            hint = f"; did you mean {suggestion}?" if suggestion else "; fix to"
            yield f"rule {rule.name}: there is no destination {unknown}{hint}"
        if rule.needs_findings and "source" in rule.objects:
            yield (
                f"rule {rule.name}: source is forwarded before it is scored; take source out of"
                " objects, or view and verdict out of the rule"
            )


def _certificate_problems(receive: ReceiveSettings) -> Iterator[str]:
    """Certificates can be asked of senders only where senders are asked for certificates."""
    tls = receive.tls
    if tls is not None and tls.mutual != "none" and tls.ca is None:
        yield (
            "receive.tls.ca is missing: name the authorities of the senders' certificates,"
            ' or set receive.tls.mutual = "none"'
        )
    bound = next((peer for peer in receive.peer if peer.certificate), None)
    if bound is not None and (tls is None or tls.mutual == "none"):
        yield f"receive.peer {bound.ae_title}: certificate needs [receive.tls], and mutual not none"
