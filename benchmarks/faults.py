"""kill -9 at random moments under load, with the real models: is anything acknowledged lost?

    python benchmarks/faults.py                       50 kills of receivers, 5 of the whole daemon
    python benchmarks/faults.py --kills 1000 --daemon-kills 100

Goes in rounds; each has its own service, database and PACS, senders that never give up, and at most
thirty kills of receivers. A round that is done is written down in --folder, so that a run that was
interrupted goes on with the next one. What senders know to be acknowledged is then looked for in
the database, the spool and the PACS. Exit status 1 if anything is lost or doubled.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.fault_load import (  # noqa: E402
    ROLES,
    SECONDARY_CAPTURE,
    SETTINGS,
    SR,
    PersistentSender,
    all_reported,
    count,
    count_jobs,
    receiver_pids,
)
from tests.support.pacs import Pacs  # noqa: E402
from tests.support.ports import reserve_port  # noqa: E402
from tests.support.service import Service  # noqa: E402
from tests.support.waiting import eventually  # noqa: E402
from training.phantom.dicom import exam  # noqa: E402

KILLS_PER_ROUND = 30
CINE_FRAMES = 2
# Models load again after each kill of the daemon, on cores that may be busy.
PATIENCE_SECONDS = 3600.0

console = Console()


def main() -> int:
    arguments = parse_arguments()
    if arguments.fresh:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rounds = plan_rounds(arguments.kills, arguments.daemon_kills)
    round_results: list[dict[str, Any]] = []
    for number, (killed, daemons) in enumerate(rounds, 1):
        result_file = arguments.folder / f"round-{number}.json"
        if not result_file.is_file():
            console.print(f"round {number} of {len(rounds)}: {killed} receivers, {daemons} daemons")
            result = run_round(arguments, number, killed, daemons)
            result_file.write_text(json.dumps(result))
        round_results.append(json.loads(result_file.read_text()))
    return print_result(round_results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of receivers")
    parser.add_argument("--daemon-kills", type=int, default=5, help="of the whole daemon")
    parser.add_argument("--senders", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two objects")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench-faults")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds that are done")
    return parser.parse_args()


def plan_rounds(kills: int, daemon_kills: int) -> list[tuple[int, int]]:
    """Kills of receivers and of the daemon in each round, spread evenly."""
    rounds = max(1, -(-kills // KILLS_PER_ROUND), -(-daemon_kills // KILLS_PER_ROUND))
    return [
        (
            kills * (part + 1) // rounds - kills * part // rounds,
            daemon_kills * (part + 1) // rounds - daemon_kills * part // rounds,
        )
        for part in range(rounds)
    ]


def run_round(
    arguments: argparse.Namespace, number: int, receivers: int, daemons: int
) -> dict[str, Any]:
    """Run one round; returns what was counted, as JSON values."""
    began = time.monotonic()
    rng = random.Random(f"{arguments.seed}:{number}")
    folder = arguments.folder / f"round-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    exams = [
        exam(rng.randrange(1 << 30), cine_frames=CINE_FRAMES) for _ in range(arguments.senders)
    ]
    pacs = Pacs(sop_classes=(SR, SECONDARY_CAPTURE)).start()
    service = Service(folder, "", ROLES)
    port = reserve_port()
    try:
        service.settings = settings(port, pacs, quiet=36000)
        service.start()
        with ExitStack() as running:
            senders = [
                running.enter_context(PersistentSender(port, objects, arguments.pause, again=True))
                for objects in exams
            ]
            victims = ["receiver"] * receivers + ["daemon"] * daemons
            rng.shuffle(victims)
            sent = 0
            for position, victim in enumerate(victims, 1):
                # Something has come through since the last kill, else there is no load.
                eventually(lambda so_far=sent: count_answers(senders) > so_far, PATIENCE_SECONDS)
                sent = count_answers(senders)
                kill(service, victim, rng)
                console.print(f"  {position}/{len(victims)} {victim} killed; {sent} acknowledged")
            eventually(lambda: is_all_acknowledged(senders), PATIENCE_SECONDS)
        eventually(lambda: not count_jobs(service, "score", "ready", "leased"), PATIENCE_SECONDS)
        service.stop()
        # Now the exams fall quiet, are reported and delivered.
        service.settings = settings(port, pacs, quiet=0)
        service.start()
        eventually(lambda: all_reported(service), PATIENCE_SECONDS)
        service.stop()
        acknowledged = {uid for sender in senders for uid in sender.acknowledged}
        studies = {str(objects[0].StudyInstanceUID) for objects in exams}
        result = count(service, pacs, acknowledged, studies)
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()
        pacs.stop()
    if result.clean:
        shutil.rmtree(folder)
    return {
        "receivers": receivers,
        "daemons": daemons,
        "answers": count_answers(senders),
        "seconds": time.monotonic() - began,
        "clean": result.clean,
        **asdict(result),
    }


def settings(port: int, pacs: Pacs, quiet: float) -> str:
    return SETTINGS.format(port=port, pacs=pacs.port, quiet=quiet, frames=CINE_FRAMES)


def kill(service: Service, victim: str, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 2.0))
    if victim == "receiver":
        # Whichever lives, also one that has just started and is not ready yet.
        os.kill(rng.choice(eventually(lambda: receiver_pids(service))), signal.SIGKILL)
    else:
        service.kill()
        service.start()


def count_answers(senders: list[PersistentSender]) -> int:
    return sum(len(sender.acknowledged) for sender in senders)


def is_all_acknowledged(senders: list[PersistentSender]) -> bool:
    return all(
        {str(each.SOPInstanceUID) for each in sender.objects} <= set(sender.acknowledged)
        for sender in senders
    )


def print_result(rounds: list[dict[str, Any]]) -> int:
    """Print the sum of all rounds; returns the exit status."""
    table = Table(title="kill -9 under load")
    table.add_column("what")
    table.add_column("count", justify="right")
    for key, what in (
        ("receivers", "kills of receivers"),
        ("daemons", "kills of the whole daemon"),
        ("answers", "C-STOREs acknowledged to senders"),
        ("acknowledged", "objects acknowledged"),
        ("findings", "findings"),
        ("reports", "SRs delivered"),
        ("duplicate_findings", "duplicate findings"),
        ("duplicate_reports", "duplicate SRs"),
        ("missing_reports", "studies without an SR"),
    ):
        table.add_row(what, str(sum(each[key] for each in rounds)))
    lost = sum(len(each["lost"]) for each in rounds)
    table.add_row("acknowledged objects lost", str(lost))
    table.add_row("seconds", f"{sum(each['seconds'] for each in rounds):.0f}")
    console.print(table)
    return 0 if all(each["clean"] for each in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
