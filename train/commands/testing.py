"""cdp eval, cdp score."""

from pathlib import Path
from typing import Annotated

from train.commands.help import cli
from train.commands.own import load_method


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
        """Tests a run in every mode of its data set's protocol; writes result.json.

        Tests with other data or options write their own file, such as result-flip-test.json, named
        after the table; both table and file state what was done.

        Args:
            run_dir: Folder that `cdp train` wrote.
            data_root: Current location of the data set, if it has moved; may be another data set.
            trial: RegDB trial to test on; rejected if the weights saw its identities.
            device: auto uses the GPU if there is one.
            method: Your own method file, if the run was trained with one.
            flip_test: Average the features of each image and its mirror image.
        """
        load_method(method, run_dir)
        many = run_folder.read_config(run_dir).data.trial == "all"
        run = evaluate_trials if many else evaluate_run
        options = EvalOptions(flip_test, re_ranking.chosen(), data_root, trial)
        run(run_dir, Display(), options, device)

    cli(parse, prog="cdp eval", args=args)


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
        """Computes CMC, mAP and mINP for features from any model.

        A file holds the arrays features [n, d] float32, pids [n] int64, camids [n] int64, as
        written by numpy.savez; other floating-point and integer types are converted. In Python:
        train.evaluation.score.score.

        Args:
            query: .npz file of the queries; one for all trials, or one per trial.
            gallery: .npz file of the gallery; several: one per trial, with figures averaged.
            protocol: PROTOCOLS
            distance: Distance between features.
            json: JSON file to write the figures to.
            device: auto uses the GPU if there is one.
        """
        score_files(
            query, gallery, protocol, distance, json, Display(), device, re_ranking.chosen()
        )

    protocols = "; ".join(f"{name}: {rule.about}" for name, rule in RULES.items())
    parse.__doc__ = (parse.__doc__ or "").replace("PROTOCOLS", protocols)  # none under python -OO
    cli(parse, prog="cdp score", args=args)
