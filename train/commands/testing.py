"""cdp eval, cdp score."""

from pathlib import Path
from typing import Annotated

from train.commands.own import take


def evaluate(args: list[str]) -> None:
    import tyro

    from pipeline.options import Trial
    from train import run_folder
    from train.config import Device
    from train.evaluation.options import EvalOptions, ReRankingFlags
    from train.evaluation.trained import evaluate_run
    from train.live.display import Display
    from train.trials import evaluate_trials

    no_re_ranking = ReRankingFlags()

    def parse(
        run_dir: tyro.conf.Positional[Path],
        data_root: Path | None = None,
        trial: Trial | None = None,
        device: Device = "auto",
        method: Path | None = None,
        flip_test: bool = False,
        re_ranking: Annotated[ReRankingFlags, tyro.conf.arg(name="")] = no_re_ranking,
    ) -> None:
        """Tests a run in every mode of its data set's protocol, as table and result.json.

        Other data and other ways of testing have files of their own, as result-flip-test.json; the
        line after the table names it, and table and file say what was done.

        Args:
            run_dir: Folder that `cdp train` wrote.
            data_root: Where the data set is now, if not where it was; may be another data set.
            trial: RegDB's trial to test on; refused if the weights saw its identities.
            device: auto is the GPU if there is one.
            method: The method file of your own that the run was trained with.
            flip_test: Average the features of each image and its mirror image.
        """
        take(method, run_dir)
        many = run_folder.read_config(run_dir).data.trial == "all"
        run = evaluate_trials if many else evaluate_run
        options = EvalOptions(flip_test, re_ranking.chosen())
        run(run_dir, Display(), data_root, trial, device, options)

    tyro.cli(parse, prog="cdp eval", args=args)


def score(args: list[str]) -> None:
    import tyro

    from pipeline.datasets.rules import RULES
    from train.config import Device
    from train.evaluation.options import ReRankingFlags
    from train.evaluation.score import score_files
    from train.live.display import Display
    from train.metrics import Distance

    no_re_ranking = ReRankingFlags()

    def parse(
        query: tuple[Path, ...],
        gallery: tuple[Path, ...],
        protocol: str,
        distance: Distance = "euclidean",
        json: Path | None = None,
        device: Device = "auto",
        re_ranking: Annotated[ReRankingFlags, tyro.conf.arg(name="")] = no_re_ranking,
    ) -> None:
        """CMC, mAP and mINP of features that any model made.

        A file holds the arrays features [n, d] float32, pids [n] int64, camids [n] int64, as
        numpy.savez writes them. In Python: train.evaluation.score.score.

        Args:
            query: .npz file of the queries; one for all trials, or one for each.
            gallery: .npz file of the gallery; several are trials, whose figures are averaged.
            protocol: PROTOCOLS
            distance: Between features.
            json: File to write the figures to as well.
            device: auto is the GPU if there is one.
        """
        score_files(
            query, gallery, protocol, distance, json, Display(), device, re_ranking.chosen()
        )

    protocols = "; ".join(f"{name}: {rule.about}" for name, rule in RULES.items())
    assert parse.__doc__
    parse.__doc__ = parse.__doc__.replace("PROTOCOLS", protocols)
    tyro.cli(parse, prog="cdp score", args=args)
