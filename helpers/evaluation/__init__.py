"""How good a model is.

Scores of the possible answers (`scoring`), predictions by a loaded model or over a URL (`judging`), and
accuracy with an interval, paired gains and mistakes (`metrics`). `python -m helpers.evaluation` is its
command line.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.evaluation.judging import ask_predictions as ask_predictions
    from helpers.evaluation.judging import evaluate as evaluate
    from helpers.evaluation.judging import evaluate_over_url as evaluate_over_url
    from helpers.evaluation.judging import summarise_scores as summarise_scores
    from helpers.evaluation.metrics import Evaluation as Evaluation
    from helpers.evaluation.metrics import Scores as Scores
    from helpers.evaluation.metrics import bootstrap_gain as bootstrap_gain
    from helpers.evaluation.metrics import estimate_interval as estimate_interval
    from helpers.evaluation.metrics import find_worst as find_worst
    from helpers.evaluation.metrics import measure_pairwise_accuracy as measure_pairwise_accuracy
    from helpers.evaluation.metrics import pick_predictions as pick_predictions
    from helpers.evaluation.metrics import summarise_predictions as summarise_predictions
    from helpers.evaluation.scoring import score_answers as score_answers

__getattr__, __dir__, __all__ = export_lazily(__name__)
