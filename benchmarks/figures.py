"""Every figure that the project promises, its goal, and the command that finds it: the one list of them.

``python -m benchmarks`` (``make figures``) runs the commands and puts what they found beside the goals;
docs/benchmarks.md has the same list for readers, and a test holds the two together. A new figure is one line in
``FIGURES``; a new command that prints JSON is one in ``MEASUREMENTS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Comparison = Literal["<=", "<", ">=", ">"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """How some figures are found.

    Attributes:
        words: what is measured.
        command: what follows ``python -m``; prints one JSON object. Empty: by hand, as ``by_hand`` says.
        minutes: about how long it takes on two cores.
        is_slow: only run when it is named.
    """

    words: str
    command: tuple[str, ...] = ()
    minutes: float = 1
    is_slow: bool = False
    by_hand: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise: the number at ``path`` of what ``measurement`` prints is as ``comparison`` and ``goal`` say."""

    measurement: str
    path: str
    words: str
    comparison: Comparison
    goal: float
    unit: str = ""

    def found_in(self, result: Mapping[str, Any]) -> float:
        """The number; KeyError where the measurement did not print it."""
        value: Any = result
        for name in self.path.split("."):
            value = value[name]
        return float(value)

    def is_reached(self, value: float) -> bool:
        return {
            "<=": value <= self.goal,
            "<": value < self.goal,
            ">=": value >= self.goal,
            ">": value > self.goal,
        }[self.comparison]

    @property
    def goal_in_words(self) -> str:
        return f"{self.comparison} {self.goal:g}{' ' + self.unit if self.unit else ''}"


MEASUREMENTS: dict[str, Measurement] = {
    "start": Measurement("`manage.py up --check` on an empty data folder, and again", ("benchmarks.start",), 2),
    "web": Measurement("the web process after a hundred visits to each page", ("benchmarks.web",), 1),
    "blindness": Measurement("what a rater's page tells about the policies", ("benchmarks.blindness",), 1),
    "feedback-exact": Measurement(
        "32 clients without pause want 600 ratings and send 30 % of them twice", ("benchmarks.feedback", "exact"), 1
    ),
    "feedback-exact-64": Measurement(
        "64 clients, two of each rater, want 10,000 ratings of all modes by turns and send 30 % of them twice",
        (
            *("benchmarks.feedback", "exact", "--mixed", "--ratings", "10000", "--clients", "64", "--tabs", "2"),
            "--seconds",
            "1800",
        ),
        8,
        is_slow=True,
    ),
    "feedback-think": Measurement("20 raters who think 2 to 5 s", ("benchmarks.feedback", "think"), 3),
    "feedback-steady": Measurement(
        "30 verdicts a second by a Poisson clock that waits for no answer", ("benchmarks.feedback", "steady"), 2
    ),
    "volume": Measurement(
        "1,000,000 ratings of 100,000 pairs: what a rater's acts ask of the database, and 30 verdicts a second",
        ("benchmarks.volume",),
        5,
        is_slow=True,
    ),
    "page": Measurement(
        "the rater page over slow 4G, in Chromium, six times with an empty cache, in all modes by turns",
        ("benchmarks.page",),
        1,
    ),
    "rating": Measurement("one rater by keyboard, 200 pairs in Chromium", ("benchmarks.rating",), 2),
    "rating-modes": Measurement(
        "the same in every rating mode, 200 items each", ("benchmarks.rating", "--mode", "all"), 15, is_slow=True
    ),
    "rating-training": Measurement(
        "the same in every rating mode, while a reward model is trained on all cores",
        ("benchmarks.rating", "--mode", "all", "--training"),
        17,
        is_slow=True,
    ),
    "import": Measurement("Python's start with and without `import rlhf_core`", ("benchmarks.importing",), 0.1),
    "lm-step": Measurement(
        "the training step of a language model beside transformers' (after `make bench-peers`)",
        ("benchmarks.lm_step",),
        1,
        is_slow=True,
    ),
    "log-prob": Measurement(
        "log-probabilities and their gradient at a vocabulary of 32,000, beside full logits",
        ("benchmarks.log_prob",),
        1,
    ),
    "ppo-memory": Measurement(
        "one iteration of PPO at a vocabulary of 50,000, 32 responses of 512 tokens",
        ("benchmarks.ppo_memory",),
        2,
        is_slow=True,
    ),
    "decoding-peers": Measurement(
        "decoding beside transformers and palm-rlhf-pytorch (after `make bench-peers`)",
        ("benchmarks.decoding_peers",),
        30,
        is_slow=True,
    ),
    "decoding": Measurement(
        "tokens a second and their share of the machine's limit; answers of geometric length; 1,000 rows in company",
        ("benchmarks.decoding",),
        12,
        is_slow=True,
    ),
    "reward-step": Measurement(
        "the training step of a reward model beside TRL's and palm-rlhf-pytorch's (after `make bench-peers`)",
        ("benchmarks.reward_step",),
        1,
        is_slow=True,
    ),
    "rl-iteration": Measurement(
        "one iteration of PPO beside TRL's and palm-rlhf-pytorch's (after `make bench-peers`)",
        ("benchmarks.rl_iteration",),
        8,
        is_slow=True,
    ),
    "loop": Measurement("one turn of the loop on the demo policy", ("benchmarks.loop",), 8, is_slow=True),
    "simulate": Measurement(
        "`manage.py simulate --labels 400 --seeds 5`: two turns of the loop with simulated raters, five times",
        ("benchmarks.simulate",),
        60,
        is_slow=True,
    ),
    "learning-t0": Measurement(
        "PPO against the exact frontier of reward and KL, five seeds",
        ("benchmarks.learning", "T0", "--summary"),
        3,
        is_slow=True,
    ),
    "learning-t1": Measurement(
        "the reward model's accuracy by the number of labels, five seeds",
        ("benchmarks.learning", "T1", "--summary"),
        7,
        is_slow=True,
    ),
    "learning-t1c": Measurement(
        "the reward model's accuracy by a rater's clicks: random pairs, chosen ones, ratings; five seeds",
        ("benchmarks.learning", "T1C", "--summary"),
        9,
        is_slow=True,
    ),
    "learning-t2": Measurement(
        "over-optimisation of a proxy, five seeds", ("benchmarks.learning", "T2", "--summary"), 8, is_slow=True
    ),
    "learning-t3": Measurement(
        "PPO finds the shortest ways on a graph, five seeds",
        ("benchmarks.learning", "T3", "--summary"),
        4,
        is_slow=True,
    ),
    "learning-t5": Measurement(
        "PPO learns when to stop, five seeds", ("benchmarks.learning", "T5", "--summary"), 2, is_slow=True
    ),
    "learning-t7": Measurement(
        "how much of a gained reward is mere length, five seeds",
        ("benchmarks.learning", "T7", "--summary"),
        4,
        is_slow=True,
    ),
    "tests": Measurement("`make test`", ("benchmarks.suite",), 12, is_slow=True),
    "compose": Measurement(
        "the loop through the containers",
        is_slow=True,
        by_hand="needs a container engine: docker compose up -d --wait, then "
        "docker compose exec web ./manage.py simulate --url http://127.0.0.1:8000 --labels 40 ends with exit code 0",
    ),
}

FIGURES: tuple[Figure, ...] = (
    Figure("start", "first.total", "from an empty data folder to the first pair to rate", "<=", 120, "s"),
    Figure("start", "second.total", "second start, to the first pair", "<=", 15, "s"),
    Figure("loop", "seconds.reward", "reward model on 400 comparisons", "<=", 90, "s"),
    Figure("loop", "seconds.policy", 'PPO with preset "CPU"', "<=", 240, "s"),
    Figure("loop", "seconds.promote_to_first_sample", "promotion to the first new sample in the queue", "<=", 15, "s"),
    *(
        figure
        for name, wanted, written in (("feedback-exact", 600, "600"), ("feedback-exact-64", 10_000, "10,000"))
        for figure in (
            Figure(name, "overshoot", f"ratings above the wanted overlap, of {written}", "<=", 0),
            Figure(name, "duplicates", f"ratings given twice, of {written}", "<=", 0),
            Figure(name, "lost", f"acknowledged ratings that do not stand as pressed, of {written}", "<=", 0),
            Figure(name, "counted", f"ratings counted, of {written} wanted", ">=", wanted),
        )
    ),
    Figure(
        "feedback-think", "submit_and_next.p95_ms", "server time of submit and next, p95 of 20 raters", "<=", 50, "ms"
    ),
    Figure(
        "feedback-steady",
        "submit_and_next.p95_ms",
        "server time of submit and next, p95 at 30 a second",
        "<=",
        50,
        "ms",
    ),
    Figure(
        "feedback-steady",
        "at_client.p95_ms",
        "submit and next from when it was due, p95 at 30 a second",
        "<=",
        50,
        "ms",
    ),
    Figure("feedback-steady", "unanswered", "verdicts at 30 a second that got no answer", "<=", 0),
    Figure("volume", "ratings", "ratings in the project of the figures that follow", ">=", 1_000_000),
    Figure("volume", "tables_read_whole", "large tables that an act of a rater reads from end to end", "<=", 0),
    *(
        Figure("volume", f"claim.{name}.p95_ms", f"claim by {words}, p95", "<=", 20, "ms")
        for name, words in (
            ("rater", "a rater of 47,000 ratings"),
            ("newcomer", "a rater of none"),
            ("leader", "one whose last 2,000 pairs are still open to others"),
        )
    ),
    Figure(
        "volume",
        "steady.submit_and_next.p95_ms",
        "server time of submit and next there, at 30 a second",
        "<=",
        50,
        "ms",
    ),
    Figure("page", "kilobytes", "the rater page over the wire, all of it", "<=", 150, "kB"),
    Figure("page", "first_paint.max_ms", "its first paint with content over slow 4G, slowest load", "<=", 1000, "ms"),
    Figure("rating", "modes.pair.key_to_next.p95_ms", "key press to the next pair painted, p95", "<=", 100, "ms"),
    Figure("rating", "modes.pair.keys_median", "keys that a median pair takes", "<=", 1),
    *(
        figure
        for name, words in (("rating", "pairs"), ("rating-modes", "every mode"))
        for figure in (
            Figure(name, "worst.pointer_events", f"pointer events of a run by keyboard, {words}", "<=", 0),
            Figure(name, "worst.layout_shift", f"layout shift in that run, after keys too, {words}", "<=", 0),
            Figure(name, "worst.moved_pixels", f"strip, prompt or verdict bar moved by, {words}", "<=", 0, "px"),
            Figure(
                name, "worst.controls_without_key", f"controls in sight without their key on them, {words}", "<=", 0
            ),
        )
    ),
    Figure("rating-modes", "worst.p95_ms", "last key to the next item painted, p95, slowest mode", "<=", 100, "ms"),
    Figure("rating-training", "worst.p95_ms", "the same while a training run uses all cores", "<=", 250, "ms"),
    Figure("rating-training", "training.steps", "steps that the run made meanwhile", ">=", 100),
    Figure("rating-training", "training.share_of_cores", "share of all cores that it had meanwhile", ">=", 0.4),
    Figure("web", "resident_megabytes", "memory of the web process", "<", 200, "MB"),
    Figure("web", "torch_libraries", "libraries of torch loaded in the web process", "<=", 0),
    Figure("blindness", "sides.p_value", "p of left and right over 10,000 draws, if the coin is fair", ">", 0.001),
    Figure("blindness", "pages.different", "pages that change when the policies behind equal texts swap", "<=", 0),
    Figure("blindness", "pages.compared", "pages compared so", ">=", 10),
    Figure("import", "added_ms", "what `import rlhf_core` adds to Python's start", "<", 50, "ms"),
    Figure(
        "decoding",
        "geometric.prompts_256.over_ideal",
        "256 answers of geometric length, 32 rows: over the mean-length ideal",
        "<=",
        1.3,
    ),
    Figure("decoding", "company.same_share", "rows with the same tokens alone and in company, of 1,000", ">=", 0.99),
    Figure("simulate", "seeds_failed", "seeds in which the loop could not be closed", "<=", 0),
    Figure("simulate", "seeds_better_share", "round 1: seeds whose whole interval of the gain is above 0", ">=", 0.8),
    Figure("simulate", "worst.kl", "round 1: sequence KL to the base policy, worst seed", "<=", 15, "nats"),
    Figure("simulate", "worst.distinct2_ratio", "round 1: distinct token pairs, against base, worst seed", ">=", 0.7),
    Figure("simulate", "worst.length_change", "round 1: mean length, against base, worst seed", "<=", 0.25),
    Figure("simulate", "worst.rm_accuracy_low", "round 1: reward model's accuracy, lower bound, worst seed", ">", 0.55),
    Figure("simulate", "worst.round2_shortfall", "round 2: taste below round 1, beyond its interval", "<=", 0),
    Figure("simulate", "worst.seconds", "both rounds of a seed, worst seed", "<=", 720, "s"),
    Figure(
        "lm-step", "over.transformers", "training step, 5M, 8 x 128 tokens: tokens/s over transformers'", ">=", 1.15
    ),
    Figure("lm-step", "ours.mebibytes", "memory of that step above the loaded model", "<=", 170, "MiB"),
    Figure("log-prob", "over.full_logits", "log-prob and gradient, vocabulary 32,000: speed over full logits", ">=", 1),
    Figure("log-prob", "ours.mebibytes", "memory of that above states and output matrix", "<=", 250, "MiB"),
    Figure(
        "ppo-memory",
        "mebibytes",
        "PPO, vocabulary 50,000, 32 x 512 tokens: memory above the loaded models",
        "<=",
        600,
        "MiB",
    ),
    *(
        Figure(
            "decoding-peers",
            f"{size}.batch_{batch}.over_{peer}",
            f"decoding, {size}, batch {batch}: {words}",
            ">=",
            goal,
        )
        for peer, words, goals in (
            ("palm", "tokens/s over palm-rlhf-pytorch's", {"5M": {1: 11, 8: 26, 32: 70, 64: 90}}),
            (
                "transformers",
                "tokens/s over transformers'",
                {
                    "5M": {1: 2.0, 8: 2.2, 32: 2.5, 64: 2.2},
                    "25M": {1: 2.0, 8: 2.0, 64: 1.3},
                    "125M": {1: 2.0, 8: 2.0, 64: 1.3},
                },
            ),
        )
        for size, of_batch in goals.items()
        for batch, goal in of_batch.items()
    ),
    Figure("reward-step", "lora.over_trl", "reward model's step, 5M, adapters: tokens/s over TRL's", ">=", 1.25),
    Figure(
        "reward-step",
        "lora.over_palm",
        "reward model's step, 5M, adapters: over palm-rlhf-pytorch's",
        ">=",
        1.6,
    ),
    Figure("rl-iteration", "lora.over_trl", "PPO, adapters, value head on the policy: samples/s over TRL's", ">=", 1.9),
    Figure(
        "rl-iteration",
        "lora.over_palm",
        "PPO, adapters, value head on the policy: samples/s over palm-rlhf-pytorch's",
        ">=",
        24,
    ),
    Figure("rl-iteration", "all.over_trl", "PPO, all weights, value model apart: samples/s over TRL's", ">=", 1.6),
    Figure("rl-iteration", "lora.mebibytes", "memory of such an iteration above the loaded models", "<=", 400, "MiB"),
    Figure(
        "learning-t0",
        "worst.objective_share",
        "T0: reward - β·KL of PPO over the best there is, worst seed",
        ">=",
        0.95,
    ),
    Figure("learning-t0", "worst.excess_errors", "T0: reward above the exact frontier, worst seed", "<=", 3, "s.e."),
    Figure("learning-t0", "worst.best_of_off", "T0: best-of-n off its exact reward, worst seed", "<=", 0.02),
    Figure(
        "learning-t1",
        "worst.behind_linear",
        "T1: accuracy behind the linear model from 200 labels on, worst",
        "<=",
        0.03,
    ),
    Figure("learning-t1", "worst.calibration_error", "T1: calibration error from 200 labels on, worst", "<", 0.05),
    Figure(
        "learning-t1c",
        "mean.chosen_share",
        "T1C: clicks to 0.90 by pairs that the model chooses, over random ones, mean",
        "<=",
        0.7,
    ),
    Figure(
        "learning-t2", "worst.peak_share", "T2: PPO's highest true reward over the exact tilts', worst seed", ">=", 0.8
    ),
    Figure("learning-t2", "worst.fall", "T2: share of that gain lost again by KL 25, worst seed", ">=", 0.25),
    Figure("learning-t2", "worst.proxy_rise", "T2: what the proxy gains meanwhile, worst seed", ">", 0),
    Figure(
        "learning-t2",
        "worst.gate_share",
        "T2: gain where the gate stops, over the peak's, worst seed",
        ">=",
        0.9,
    ),
    Figure(
        "learning-t2", "four_of_five.ensemble_gain", "T2: true reward by an ensemble over one model's at KL 16", ">", 0
    ),
    Figure(
        "learning-t3", "four_of_five.optimality", "T3: optimality of the ways found, in four of five seeds", ">=", 0.9
    ),
    Figure("learning-t5", "worst.end_rate", "T5: responses that end by themselves, worst seed", ">", 0.95),
    Figure("learning-t5", "worst.reward", "T5: responses that end in time, worst seed", ">=", 0.9),
    Figure(
        "learning-t7", "worst.length_share_left", "T7: gain by length, debiased over confounded, worst seed", "<=", 0.5
    ),
    Figure("tests", "seconds", "`make test`", "<=", 900, "s"),
)


def quick() -> list[str]:
    """The measurements that run when none is named."""
    return [name for name, measurement in MEASUREMENTS.items() if not measurement.is_slow]


def goal_rows() -> list[str]:
    """The rows of the table of goals in docs/benchmarks.md."""
    return [f"| {figure.words} | {figure.goal_in_words} | `{figure.measurement}` |" for figure in FIGURES]


def measurement_rows() -> list[str]:
    """The rows of the table of measurements in docs/benchmarks.md."""
    return [
        f"| `{name}` | {it.words} | {f'{it.minutes:g} min' if it.command else 'by hand'} | "
        f"{'by name' if it.is_slow else 'by default'} |"
        for name, it in MEASUREMENTS.items()
    ]


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found beside the goals; where nothing was measured, the command that would."""
    lines = [f"{'figure':66} {'found':>9}  {'goal':>12}"]
    for figure in FIGURES:
        if figure.measurement in results:
            value = figure.found_in(results[figure.measurement])
            verdict = "reached" if figure.is_reached(value) else "MISSED"
            lines.append(f"{figure.words:66} {value:>9.4g}  {figure.goal_in_words:>12}  {verdict}")
        else:
            ask = f'make figures ARGS="{figure.measurement}"'
            lines.append(f"{figure.words:66} {'-':>9}  {figure.goal_in_words:>12}  not measured: {ask}")
    lines += [f"{it.words}: by hand; it {it.by_hand}" for it in MEASUREMENTS.values() if it.by_hand]
    return "\n".join(lines)


def missed(results: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """The figures that were measured and are not as promised."""
    return [
        figure
        for figure in FIGURES
        if figure.measurement in results and not figure.is_reached(figure.found_in(results[figure.measurement]))
    ]
