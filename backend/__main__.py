"""`python -m backend`: every result without the pages.

Answers go to stdout (`--json`) or into a folder (`--out`); an error is one line on stderr that names the field,
with exit code 2.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.contracts import Step, request_from_json
from backend.errors import BadInput, PrismError
from backend.request_files import read_json_object, with_ids


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except PrismError as error:
        field = f"{error.field}: " if error.field else ""
        print(f"prism: {field}{error.sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prism: stopped; a job goes on from its checkpoint when it is started again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backend", description="Prism without the pages.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int | None], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=function)
        return sub

    command("methods", _methods, "List the methods.").add_argument("--json", action="store_true")
    command("models", _models, "List the models.").add_argument("--json", action="store_true")
    run = command("run", _run, "Answer a request; writes result.npz and manifest.json.")
    run.add_argument("request", metavar="REQUEST.json")
    run.add_argument("--out", required=True, metavar="DIR")
    batch = command("batch", _batch, "Answer a request for each row of a table; goes on where it was stopped.")
    batch.add_argument("manifest", metavar="MANIFEST", help="CSV or Parquet; columns are the fields of a request")
    batch.add_argument("--out", required=True, metavar="DIR", help="gets rows/*.npz, rows/*.json and results.parquet")
    batch.add_argument("--request", default="", metavar="REQUEST.json", help="what all rows share")
    batch.add_argument("--engine", default="local", choices=("local", "ray"), help="ray: on several processes, by Ray")
    batch.add_argument("--workers", type=int, default=0, metavar="N", help="ray: processes; default: one for each core")
    batch.add_argument("--join", default="", metavar="HOST:PORT", help="ray: one that runs already; default: start one")
    batch.add_argument("--metrics", action="store_true", help="deletion and insertion of attributions as well")
    serve = command("serve", _serve, "Start replicas of the engine on a Ray cluster; stays until it is stopped.")
    serve.add_argument("--settings", default="", metavar="FILE.toml", help="see backend/cluster/settings.py")
    serve.add_argument("--replicas", type=int, metavar="N", help="as many, whatever the load")
    serve.add_argument("--host", help="where Ray listens; default: loopback only")
    serve.add_argument("--port", type=int)
    serve.add_argument("--join", default="", metavar="HOST:PORT", help="a Ray that runs already; default: start one")
    train = command("train", _train, "Train an embedded model; goes on from its checkpoint if interrupted.")
    train.add_argument("name")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--images", default="", metavar="PATH", help="own-images: a dSprites .npz or a picture folder")
    train.add_argument("--data", default="", metavar="PATH", help="own: a table (CSV, Parquet, gzip), see the README")
    _add_own(train, "own")
    train.add_argument("--blocks", default="", help="own-images: sizes of the blocks of latents, as 3,2")
    evaluate = command("evaluate", _evaluate, "Print the table that a page shows.")
    evaluate.add_argument("family")
    evaluate.add_argument("--model", default="", help="key; none where --data brings a table to fit a model to")
    evaluate.add_argument("--n", type=int, default=100, help="number of inputs")
    evaluate.add_argument("--seeds", type=int, default=1, help="of training, or of ROAR+'s fine-tuning")
    evaluate.add_argument("--preset", default="table", help="image_text: table, roar or search")
    evaluate.add_argument(
        "--methods",
        default="",
        help="keys separated by commas, with settings behind colons (lrp:composite=gamma); default: all that apply",
    )
    evaluate.add_argument("--baseline", default="black")
    evaluate.add_argument("--data", default="", metavar="PATH", help="image_text, additive_image: data of your own")
    _add_own(evaluate, "additive_image with --data")
    evaluate.add_argument("--images", default="", metavar="PATH", help="additive_image with --data: its pictures")
    evaluate.add_argument("--json", action="store_true")
    fetch = command("fetch-weights", _fetch_weights, "Download a hub model's weights into the hub's cache.")
    fetch.add_argument("key")
    doctor = command("doctor", _doctor, "Check this installation; says what to fix. Exit code 1: something must be.")
    doctor.add_argument("--port", type=int, default=8501)
    doctor.add_argument("--json", action="store_true")
    return parser


def _add_own(command: argparse.ArgumentParser, when: str) -> None:
    """How a table and pictures of one's own are read and coded."""
    command.add_argument("--target", default="", help=f"{when}: the explained column; default: guessed")
    command.add_argument("--encoder", default="short", help=f"{when}: short, long, pca, dinov2 or timm:NAME")
    command.add_argument("--leave-out", action="store_true", help=f"{when}: rows that cannot be used may be left out")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _methods(arguments: argparse.Namespace) -> None:
    from backend.catalog import ROWS_OF
    from backend.describe import describe_method

    rows = [describe_method(spec) for specs in ROWS_OF.values() for spec in specs.values()]
    if arguments.json:
        return _print_json(rows)
    for row in rows:
        print(f"{row['key']:18} {row['title']:22} {row['summary']}")


def _models(arguments: argparse.Namespace) -> None:
    from backend.describe import describe_models
    from backend.service import local_service

    service = local_service()
    rows = describe_models(service)
    if arguments.json:
        _print_json(rows)
    else:
        for row in rows:
            print(f"{row['key']:28} {row['source']:9} {row['title']}")
    for problem in service.library.problems:
        print(f"prism: {problem}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> None:
    from backend.service import local_service

    service = local_service()
    body, folder = read_json_object(arguments.request), Path(arguments.request).parent
    request = with_ids(body, folder, service.put_image, service.put_audio)
    result = service.run(request_from_json(request), _show_step)
    _end_of_steps()
    result.save(arguments.out)
    print(f"{Path(arguments.out) / 'result.npz'}")


def _batch(arguments: argparse.Namespace) -> int:
    from backend.batch import read_defaults, run_batch

    service, answer_all = None, None
    if arguments.engine == "ray":
        from backend.cluster.rows import answer_by_ray

        answer_all = answer_by_ray(arguments.workers, arguments.join)
    else:
        from backend.service import local_service

        service = local_service()
    defaults, places = read_defaults(arguments.request), (arguments.manifest, arguments.out)
    found = run_batch(service, *places, defaults, arguments.metrics, _show_step, answer_all)
    _end_of_steps()
    print(f"{found.table}: {found.answered} answered ({found.reused} by an earlier run), {found.refused} refused")
    return int(found.refused > 0)


def _serve(arguments: argparse.Namespace) -> None:
    from backend.cluster import head
    from backend.cluster.settings import ClusterSettings

    given = {"host": arguments.host, "port": arguments.port}
    given |= {"min_replicas": arguments.replicas, "max_replicas": arguments.replicas}

    def on_ready(address: str) -> None:
        print(f"ready; start the pages with: PRISM_CLUSTER={address} streamlit run app.py", flush=True)

    head.serve(ClusterSettings.read(arguments.settings, given), arguments.join, on_ready)


def _train(arguments: argparse.Namespace) -> None:
    if arguments.name == "own":
        return _train_own(arguments)
    args = {"name": arguments.name, "seed": arguments.seed}
    if arguments.images or arguments.name == "own-images":
        args |= {"family": "additive_decoding", "recipe": _recipe_of_images(arguments)}
    _run_job("train", args)


def _train_own(arguments: argparse.Namespace) -> None:
    """An additive image model of a user's own table and pictures; the page lists it under "Trained here"."""
    from backend.additive_image.own_store import JOB_KIND

    if not arguments.data:
        raise BadInput("training on your own table is `train own --data TABLE --images FOLDER`", "data")
    _run_job(JOB_KIND, _own_data(arguments, arguments.seed))


def _own_data(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Reads, joins and keeps a user's table and pictures; what a job needs to fit a model to them."""
    from backend.additive_image.own_files import job_args

    given = arguments.data, arguments.images, arguments.target, arguments.encoder
    return job_args(*given, seed, arguments.leave_out)


def _recipe_of_images(arguments: argparse.Namespace) -> dict[str, Any]:
    """What trains a decoder on a user's own pictures; the job keeps weights, card and grid in its folder."""
    if arguments.name != "own-images" or not arguments.images:
        raise BadInput("training on your own pictures is `train own-images --images PATH`", "images")
    sizes = [size for size in arguments.blocks.split(",") if size]
    if not all(size.isdecimal() for size in sizes):
        raise BadInput(f"blocks is {arguments.blocks!r}; expected whole numbers, as 3,2", "blocks")
    images = str(Path(arguments.images).resolve())
    return {"base": "own-images", "images": images, "block_sizes": [int(size) for size in sizes]}


def _evaluate(arguments: argparse.Namespace) -> None:
    from backend.training import PACKAGES

    if arguments.family not in PACKAGES:
        raise BadInput(f"unknown family {arguments.family!r}; one of {', '.join(PACKAGES)}", "family")
    if arguments.family == "additive_image" and arguments.data:
        if arguments.model:
            raise BadInput("give either --model or --data: a model is fitted to your own data", "model")
        return _run_job("evaluate", {"family": arguments.family, **_own_data(arguments, 0)})
    if not arguments.model:
        raise BadInput("--model is missing: the key of what is evaluated", "model")
    names = [name for name in arguments.methods.split(",") if name]
    _run_job(
        "evaluate",
        {
            "family": arguments.family,
            "model": arguments.model,
            "n": arguments.n,
            "seeds": arguments.seeds,
            "preset": arguments.preset,
            "methods": names,
            "baseline": arguments.baseline,
            **({"data": str(Path(arguments.data).resolve())} if arguments.data else {}),
        },
    )


def _run_job(kind: str, args: dict[str, Any]) -> None:
    from backend.jobs import default_queue

    queue = default_queue()
    result = queue.attach(queue.submit(kind, args), _show_step)
    _end_of_steps()
    _print_json(result)


def _fetch_weights(arguments: argparse.Namespace) -> None:
    from backend.service import local_service

    service = local_service()
    loaded = service.library.load(arguments.key, service.runtime.device, service.runtime.dtype)
    print(json.dumps({"key": loaded.spec.key, "digest": loaded.digest, "bytes": loaded.nbytes}))


def _doctor(arguments: argparse.Namespace) -> int:
    from backend.doctor import examine

    findings = []
    for finding in examine(arguments.port):
        findings.append(finding)
        if not arguments.json:
            print(f"{finding.level:5}{finding.check:13}{finding.said}")
            if finding.todo:
                print(f"{'':18}-> {finding.todo}")
    if arguments.json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    return int(any(finding.level == "fix" for finding in findings))


def _show_step(step: Step) -> None:
    """Progress on stderr, in one line, when a person is watching."""
    if sys.stderr.isatty():
        print(f"\r{step.fraction:4.0%} {step.message:60.60}", end="", file=sys.stderr, flush=True)


def _end_of_steps() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
