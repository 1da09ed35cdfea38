"""Every metric that a run of each kind records, with its help text and unit; standard library only."""

COMMON_METRICS: dict[str, tuple[str, str]] = {
    "learning_rate": ("size of the optimiser's steps, after warm-up and decay", ""),
    "tokens_per_second": ("tokens learned from or drawn, by the clock", "tokens/s"),
}
METRICS: dict[str, dict[str, tuple[str, str]]] = {
    "pretrain": {
        "loss": ("mean surprise of the next token on the training text", "nats/token"),
        "validation_loss": ("the same on text that is never trained on", "nats/token"),
        "bits_per_character": ("surprise on the validation text, comparable between vocabularies", "bits/character"),
        "grad_norm": ("length of the gradient before it is clipped", ""),
        **COMMON_METRICS,
    },
    "sft": {
        "loss": ("mean surprise of a response's next token on the step's demonstrations", "nats/token"),
        "validation_loss": ("the same on prompts that are never trained on", "nats/token"),
        "parent_validation_loss": ("what the policy that it began from has on those prompts", "nats/token"),
        "kl": ("drift from the frozen parent: sum of log-ratios of a response, mean of 64 responses", "nats/response"),
        "epoch": ("passes over the demonstrations so far", "epochs"),
        "grad_norm": ("length of the gradient before it is clipped", ""),
        **COMMON_METRICS,
    },
    "reward": {
        "loss": ("mean negative log-likelihood of the step's ratings of both kinds", "nats"),
        "accuracy": ("share of the step's verdicts whose better response scores higher; ties are left out", "share"),
        "comparison_loss": ("negative log-likelihood of the comparisons, their ties and strengths included", "nats"),
        "score_loss": ("cross-entropy of the 1-to-5 ratings over the bins; ln 5 = 1.609 is guessing", "nats"),
        "holdout_accuracy": ("accuracy on prompts that are never trained on", "share"),
        "holdout_count": ("verdicts that holdout_accuracy is measured on", "verdicts"),
        "holdout_calibration_error": (
            "how far the probabilities of held-out verdicts are from how often they come true, mean",
            "share",
        ),
        "holdout_concordance": ("share of held-out pairs of different 1-to-5 ratings in the right order", "share"),
        "grad_norm": ("length of the gradient before it is clipped", ""),
        **COMMON_METRICS,
    },
    "policy": {
        "reward": ("score less the KL penalty, mean of the round's responses", "reward"),
        "score": ("the reward model's score before any penalty, mean of the responses", "reward"),
        "kl": ("drift from the frozen parent: sum of log-ratios of a response, mean of the responses", "nats/response"),
        "k3": ("the same by an estimator that is never negative and varies less", "nats/response"),
        "kl_coefficient": ("reward given up for a nat of drift (beta)", "reward/nat"),
        "entropy": ("mean spread of the next-token distribution", "nats/token"),
        "response_length": ("mean tokens of a response, its end token included", "tokens"),
        "end_rate": ("share of the responses that end by themselves", "share"),
        "truncated_rate": ("share of the responses cut at the longest length", "share"),
        "ratio_min": ("smallest probability ratio of new to old policy in the round", ""),
        "ratio_max": ("largest probability ratio of new to old policy in the round", ""),
        "approx_kl": ("drift from the policy that drew the round, mean of its steps' tokens", "nats/token"),
        "skipped_steps": ("optimiser steps left out because that drift passed kl_early_stop", "steps"),
        "clip_fraction": ("share of tokens whose ratio was clipped", "share"),
        "value_clip_fraction": ("share of tokens whose value was clipped", "share"),
        "policy_loss": ("clipped surrogate loss, mean of the tokens", ""),
        "value_loss": ("clipped squared error of the critic, mean of the tokens", ""),
        "explained_variance": ("how much of the returns the critic foresees; 1 is all, 0 is none", "share"),
        "actor_grad_norm": ("length of the policy's gradient before it is clipped", ""),
        "critic_grad_norm": ("length of the critic's gradient before it is clipped", ""),
        "distinct_2": ("different token pairs among all pairs of the round; falls as responses grow alike", "share"),
        **COMMON_METRICS,
    },
    "evaluate": {
        "reward": ("the reward model's score of the candidate's responses, mean", "reward"),
        "reward_difference": ("the candidate's score less its parent's on the same prompt, mean", "reward"),
        "reward_difference_error": ("standard error of reward_difference", "reward"),
        "kl_base": (
            "drift from the first policy of the lineage: sum of log-ratios of a response, mean",
            "nats/response",
        ),
        "kl_base_error": ("standard error of kl_base", "nats/response"),
        "k3_base": ("kl_base by an estimator that is never negative and varies less", "nats/response"),
        "kl_parent": ("drift from the policy that the candidate was improved from, measured alike", "nats/response"),
        "kl_parent_error": ("standard error of kl_parent", "nats/response"),
        "k3_parent": ("kl_parent by an estimator that is never negative and varies less", "nats/response"),
        "response_length": ("mean tokens of a response, its end token included", "tokens"),
        "end_rate": ("share of the responses that end by themselves", "share"),
        "distinct_1": ("different tokens among all tokens of the responses", "share"),
        "distinct_2": ("different token pairs among all pairs of the responses", "share"),
        "distinct_3": ("different token triples among all triples of the responses", "share"),
        "repetition": ("share of a response's runs of four tokens that stood in it before, mean", "share"),
        "tokens_per_second": COMMON_METRICS["tokens_per_second"],
    },
}
"""Help text and unit of every metric that a run of each kind records."""
JUDGE_METRICS: dict[str, tuple[str, str]] = {
    "judge_score": ("with a judge: its score of the same responses, from which nothing learns, mean", "reward"),
    "judge_score_error": ("with a judge: standard error of judge_score", "reward"),
}
"""The same of what a policy run records beside those, where it was given a judge."""
GROUP_METRICS: dict[str, tuple[str, str]] = {
    "flat_groups": (
        "with rloo or grpo: share of the prompts whose responses all scored alike, which teaches nothing",
        "share",
    ),
}
"""The same of what a policy run records that compares responses within groups."""
CRITIC_METRICS = ("value_clip_fraction", "value_loss", "explained_variance", "critic_grad_norm")
"""Of a policy run's metrics, those that only one with a critic (ppo) records."""
