"""The reward model: a PaLM that reads a response after its prompt and says how good it is."""

import copy
from typing import Any, get_args

import torch
from torch import Tensor, nn

from rlhf_core.config import EnsembleMembers, EnsembleScoring, Pooling, RewardHeadKind
from rlhf_core.ensembles import check_scoring, combine_scores, disagreement, mean_and_deviation, variance_of
from rlhf_core.errors import ConfigError
from rlhf_core.losses import comparison_logits, comparison_loss, fit_step_biases
from rlhf_core.masking import Sequences, length_mask, mean_of_rows
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_files import POSTERIOR, RewardFiles
from rlhf_core.modules.reward_head import RewardHead

USUAL = 0.95  # of the reference responses: their variance costs an ensemble's score nothing
STRENGTHS = 3  # steps by which one response may be better than another


class RewardModel(RewardFiles):
    """Pools a PaLM over the response and reads one value off it.

    Ratings and comparisons train that one value, with which a policy will be rewarded; ``RewardHead`` tells the kinds
    of heads apart. An ensemble has several members over one trunk, each with a head of its own and, unless they are
    ``heads`` alone, with adapters and segment embeddings of its own. Scores of its members become one.

    Args:
        palm: trunk to start from; copied, never changed. LoRA scopes it may have are left out of the copy.
        dropout: of the trunk, in training only.
        num_binned_output: bins of the rating scale; 0 or 1 gives a scalar head.
        use_lora: train adapters on a frozen trunk; otherwise the whole trunk learns.
        lora_r: their rank.
        reward_lora_scope: their name; further members' have a number behind it.
        sample_from_bins: draw a bin instead of taking the expectation. None is False: a random reward teaches noise.
        sample_temperature: of such draws, above 0.
        head: "binned", "ordinal", "scalar" or "pairwise"; None is binned with bins, else scalar.
        pooling: "mean" over the final embeddings of the response, or its "last" alone.
        ensemble: members.
        ensemble_members: "adapters": the trunk is read once a member; "heads": once for all of them.
        ensemble_scoring, ensemble_penalty: how their scores become one; see ``combine_scores``. Their mean if nothing
            is said; a reward run's default is "mean-variance" with 10 instead.

    Raises:
        ConfigError: an argument outside its range, or two that contradict each other.

    Attributes:
        reward_mean, reward_std: what ``forward`` and ``score`` subtract and divide by, a member; 0 and 1 until
            ``normalise``. An ensemble's combined score is normalised once more, by ``combined_mean`` and
            ``combined_std``.
        head_covariance: (members, dim, dim) of the head's weights along its natural parameter: what the feedback
            leaves open of them (``rlhf_core.training.posterior``); None where it was not looked for.
        reference_slopes: (members, dim) mean ``value_slopes`` of the reference responses, against which scores count.
        usual_variance: of an ensemble's score, which all but a few of the reference responses do not pass.
        head_config: the keywords that make an equal model around an equal trunk.
    """

    reward_mean: Tensor
    reward_std: Tensor
    combined_mean: Tensor
    combined_std: Tensor
    head_covariance: Tensor | None
    reference_slopes: Tensor | None
    usual_variance: Tensor | None

    def __init__(
        self,
        palm: PaLM,
        dropout: float = 0.1,
        num_binned_output: float = 0.0,
        use_lora: bool = True,
        lora_r: int = 8,
        reward_lora_scope: str = "reward",
        sample_from_bins: bool | None = None,
        sample_temperature: float = 1.0,
        head: RewardHeadKind | None = None,
        pooling: Pooling = "mean",
        ensemble: int = 1,
        ensemble_members: EnsembleMembers = "adapters",
        ensemble_scoring: EnsembleScoring = "mean",
        ensemble_penalty: float = 1.0,
    ) -> None:
        super().__init__()
        if num_binned_output < 0 or num_binned_output != int(num_binned_output):
            raise ConfigError("num_binned_output", num_binned_output, "a whole number, 0 or 1 for a scalar head")
        if not sample_temperature > 0:
            raise ConfigError("sample_temperature", sample_temperature, "above 0")
        if head is None:
            head = "binned" if num_binned_output > 1 else "scalar"
        for name, value, kinds in (
            ("head", head, RewardHeadKind),
            ("pooling", pooling, Pooling),
            ("ensemble_members", ensemble_members, EnsembleMembers),
        ):
            if value not in get_args(kinds):
                raise ConfigError(name, value, "one of " + ", ".join(get_args(kinds)))
        if sample_from_bins and head != "binned":
            raise ConfigError("sample_from_bins", sample_from_bins, "False without bins to draw from")
        if not isinstance(ensemble, int) or ensemble < 1:
            raise ConfigError("ensemble", ensemble, "a whole number, at least 1")
        if ensemble > 1 and ensemble_members == "adapters" and not use_lora:
            raise ConfigError("ensemble_members", ensemble_members, "heads, where the trunk itself learns")
        check_scoring(ensemble_scoring, ensemble_penalty)
        self.bins = int(num_binned_output)
        self.pooling = pooling
        self.members = ensemble
        self.ensemble_scoring = ensemble_scoring
        self.ensemble_penalty = ensemble_penalty
        self.sample_from_bins = bool(sample_from_bins)
        self.sample_temperature = sample_temperature
        self.head_config = dict(
            dropout=dropout,
            num_binned_output=self.bins,
            use_lora=use_lora,
            lora_r=lora_r,
            reward_lora_scope=reward_lora_scope,
            sample_from_bins=self.sample_from_bins,
            sample_temperature=sample_temperature,
            head=head,
            pooling=pooling,
            ensemble=ensemble,
            ensemble_members=ensemble_members,
            ensemble_scoring=ensemble_scoring,
            ensemble_penalty=ensemble_penalty,
        )
        readers = ensemble if ensemble_members == "adapters" else 1  # passes through the trunk
        numbers = ["", *(f"_{number}" for number in range(2, readers + 1))]
        self.scopes = [f"{reward_lora_scope}{number}" if use_lora else None for number in numbers]
        self.palm = copy.deepcopy(palm)
        for other in list(self.palm.lora):
            self.palm.remove_finetune_params(other)
        self.palm.set_dropout(dropout)
        for scope in self.scopes:
            if scope is not None:
                self.palm.add_finetune_params(scope, lora_r)
        self.palm.train_only(self.scopes[0])
        for scope in self.scopes[1:]:
            for parameter in self.palm.finetune_parameters(str(scope)):
                parameter.requires_grad_(True)
        dim = palm.dim
        by_reader = (readers,) if readers > 1 else ()  # a single one's tensors have no such axis, in files too
        by_member = (ensemble,) if ensemble > 1 else ()
        self.prompt_embedding = nn.Parameter(torch.zeros(*by_reader, dim))
        self.response_embedding = nn.Parameter(torch.zeros(*by_reader, dim))
        self.head = RewardHead(dim, head, self.bins, ensemble)
        self.comparison_log_scale = nn.Parameter(torch.zeros(by_member))
        self.step_biases = nn.Parameter(torch.zeros(*by_member, STRENGTHS + 1))
        self.register_buffer("reward_mean", torch.zeros(by_member))
        self.register_buffer("reward_std", torch.ones(by_member))
        if ensemble > 1:
            self.register_buffer("combined_mean", torch.zeros(()))
            self.register_buffer("combined_std", torch.ones(()))
        for name in POSTERIOR:  # not in a state dict before there is one
            self.register_buffer(name, None)
        self.to(palm.device)

    def finetune_parameters(self) -> list[nn.Parameter]:
        """Everything that learns: adapters or trunk, segment embeddings, head, and the scale of comparisons."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def pool(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        disable_lora: bool = False,
        lengths: Tensor | None = None,
        reader: int = 0,
    ) -> Tensor:
        """(batch, dim): mean of the final embeddings over the real tokens of each response, or the last of them.

        ``reader`` chooses the adapters of an ensemble's member.
        """
        size = x.shape[1]
        if prompt_mask is not None and prompt_lengths is not None:
            raise ValueError("give prompt_mask or prompt_lengths, not both")
        for name, one in (("mask", mask), ("prompt_mask", prompt_mask)):
            if one is not None and one.shape != x.shape:
                raise ValueError(f"{name} must have the shape of x, {tuple(x.shape)}, not {tuple(one.shape)}")
        if lengths is None:
            lengths = torch.full((len(x),), size, device=x.device) if mask is None else mask.sum(dim=1)
            if mask is not None and not torch.equal(mask, length_mask(lengths, size)):
                raise ValueError("mask must keep the start of each row: padding stands on the right")
        if prompt_lengths is not None:
            prompt_mask = length_mask(prompt_lengths, size)
        if prompt_mask is None:
            prompt_mask = torch.zeros_like(x, dtype=torch.bool)
        response = length_mask(lengths, size) & ~prompt_mask
        if not bool(response.any(dim=1).all()):
            raise ValueError("a row has no response tokens to score")
        prompt_embedding, response_embedding = (
            one.view(-1, self.palm.dim)[reader] for one in (self.prompt_embedding, self.response_embedding)
        )
        segments = torch.where(prompt_mask[..., None], prompt_embedding, response_embedding)
        if self.pooling == "last":
            places = torch.arange(len(x), device=x.device) * size + lengths - 1
        else:
            places = response.flatten().nonzero()[:, 0]
        states = self.palm(
            x,
            lengths=lengths,
            extra_embed=segments,
            finetune_scope=self.scopes[reader],
            disable_lora=disable_lora,
            return_only_embedding=True,
            places=places,
        )
        return states if self.pooling == "last" else mean_of_rows(states, response)

    def pool_all(self, x: Tensor, **rows: Any) -> Tensor:
        """(readers, batch, dim) of ``pool``; ``rows`` are further arguments of it."""
        return torch.stack([self.pool(x, reader=reader, **rows) for reader in range(len(self.scopes))])

    def value(self, head_output: Tensor) -> Tensor:
        """(..., outputs) of the head -> (...) expected bin or number, before normalisation."""
        return self.head.value(head_output)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        disable_lora: bool = False,
        lengths: Tensor | None = None,
        sample: bool | None = None,
        sample_temperature: float | None = None,
    ) -> Tensor:
        """A value for each row, or the loss of ``labels``.

        Args:
            x: (batch, seq) token ids, padded on the right.
            mask: (batch, seq) bool, True at real tokens. ``lengths`` says the same; neither: all tokens are real.
            prompt_mask: (batch, seq) bool, True at prompt tokens; or give ``prompt_lengths`` (batch,). Neither: all is
                response.
            labels: (batch,) ratings 0 to bins - 1, or numbers for a scalar head. All members learn from them.
            disable_lora: leave the adapters out.
            sample, sample_temperature: draw a bin; None takes the model's own settings.

        Returns:
            with labels, the mean negative log-likelihood in nats (or squared error); else (batch,) normalised values,
            or drawn bins 0 to bins - 1.

        Raises:
            ValueError: both prompt arguments, a mask of another shape or that is not padding on the right, a row
                without a response, ``labels`` that the head cannot learn, or ``sample`` without bins.
        """
        if labels is not None:
            if labels.shape != x.shape[:1]:
                raise ValueError(f"labels must be ({len(x)},), one a row, not {tuple(labels.shape)}")
            self.head.check_labels(labels)
        if sample and self.head.kind != "binned":
            raise ValueError(f"there are no bins to draw from: the head is {self.head.kind}")
        pooled = self.pool_all(
            x,
            mask=mask,
            prompt_mask=prompt_mask,
            prompt_lengths=prompt_lengths,
            disable_lora=disable_lora,
            lengths=lengths,
        )
        outputs = self.head.member_outputs(pooled)
        if labels is not None:
            losses = [self.head.rating_loss(one, labels, member=member) for member, one in enumerate(outputs)]
            return torch.stack(losses).mean()
        if self.head.kind == "binned" and (self.sample_from_bins if sample is None else sample):
            temperature = self.sample_temperature if sample_temperature is None else sample_temperature
            chances = (outputs.float() / temperature).softmax(dim=-1).mean(dim=0)
            return torch.multinomial(chances, 1).squeeze(-1)
        return self.combine(self.normalised(self.value(outputs)), self.variances(self.value_slopes(pooled, outputs)))

    def pooled(self, sequences: Sequences) -> Tensor:
        """(readers, batch, dim) what the heads read."""
        return self.pool_all(sequences.tokens, prompt_lengths=sequences.prompt_lengths, lengths=sequences.lengths)

    def head_outputs(self, sequences: Sequences) -> Tensor:
        """(members, batch, outputs) of the heads."""
        return self.head.member_outputs(self.pooled(sequences))

    # Scores

    def normalised(self, values: Tensor) -> Tensor:
        """(members, batch) values -> scores, each member's with mean 0 and deviation 1 on the reference responses."""
        return (values - self.reward_mean.view(-1, 1)) / self.reward_std.view(-1, 1)

    def value_slopes(self, pooled: Tensor, outputs: Tensor) -> Tensor:
        """(readers, batch, dim) embeddings and the heads' outputs -> (members, batch, dim).

        The derivative of a value in the head's weights, along its natural parameter.
        """
        return self.head.slope(outputs)[..., None] * pooled.float()

    def variances(self, slopes: Tensor) -> Tensor | None:
        """(members, batch, dim) -> (members, batch) variances of scores by what is open of the heads.

        Scores count from the reference responses, so it is that of the difference to their mean. None where nothing is
        known of it.
        """
        if self.head_covariance is None or self.reference_slopes is None:
            return None
        return self.variances_along(slopes - self.reference_slopes[:, None])

    def variances_along(self, difference: Tensor) -> Tensor:
        """(members, batch, dim) differences of slopes -> (members, batch) variances of the scores' differences."""
        assert self.head_covariance is not None
        found = ((difference @ self.head_covariance) * difference).sum(dim=-1).clamp(min=0)  # below 0 by rounding
        return found / self.reward_std.view(-1, 1).square()

    def combine(self, member_scores: Tensor, variances: Tensor | None = None) -> Tensor:
        """(members, batch) normalised scores, and their variances -> (batch,), by ``ensemble_scoring``."""
        if self.members == 1:
            return member_scores[0]
        usual = 0.0 if self.usual_variance is None else self.usual_variance
        combined = combine_scores(member_scores, self.ensemble_scoring, self.ensemble_penalty, variances, usual)
        return (combined - self.combined_mean) / self.combined_std

    def uncertainty_of(self, member_scores: Tensor, variances: Tensor | None = None) -> Tensor:
        """(members, batch) normalised scores, and their variances -> (batch,) standard deviations, in score units."""
        spread = disagreement(member_scores, variances)
        return spread if self.members == 1 else spread / self.combined_std

    @torch.no_grad()
    def read(self, sequences: Sequences, batch_size: int = 32) -> tuple[Tensor, Tensor | None]:
        """(members, batch) normalised scores and their variances (``variances``), a few rows at a time."""
        values, slopes = self.read_values(sequences, batch_size)
        return self.normalised(values), self.variances(slopes)

    @torch.no_grad()
    def read_values(self, sequences: Sequences, batch_size: int = 32) -> tuple[Tensor, Tensor]:
        """(members, batch) values before normalisation, and their ``value_slopes``, a few rows at a time."""
        parts = torch.arange(len(sequences.tokens), device=sequences.tokens.device).split(batch_size)
        pooled = torch.cat([self.pooled(sequences.rows(part)) for part in parts], dim=1)
        outputs = self.head.member_outputs(pooled)
        return self.value(outputs), self.value_slopes(pooled, outputs)

    def member_scores(self, sequences: Sequences, batch_size: int = 32) -> Tensor:
        """(members, batch) normalised scores."""
        return self.read(sequences, batch_size)[0]

    def score(self, sequences: Sequences, batch_size: int = 32) -> Tensor:
        """(batch,) normalised scores."""
        return self.combine(*self.read(sequences, batch_size))

    def uncertainty(self, sequences: Sequences, batch_size: int = 32) -> Tensor:
        """(batch,) standard deviation of the score, in its units: between the members, and of each by itself.

        0 for a model that is no ensemble and has no ``head_covariance``.
        """
        return self.uncertainty_of(*self.read(sequences, batch_size))

    @torch.no_grad()
    def uncertainty_between(self, first: Sequences, second: Sequences, batch_size: int = 32) -> Tensor:
        """(batch,) how unsure the model is which of two responses is the better: ``uncertainty`` of the difference.

        In units of the members' scores. Pairs where it is large teach most: they are the ones to have judged.
        """
        (values, slopes), (others, other_slopes) = (self.read_values(one, batch_size) for one in (first, second))
        own = None if self.head_covariance is None else self.variances_along(slopes - other_slopes)
        return disagreement((values - others) / self.reward_std.view(-1, 1), own)

    # Comparisons

    def compare(self, chosen: Tensor, rejected: Tensor, member: int = 0) -> Tensor:
        """The utility difference of two of a member's values, for ``comparison_loss``."""
        return self.comparison_log_scale.view(-1)[member].exp() * (chosen - rejected)

    def comparison_loss(
        self,
        chosen: Tensor,
        rejected: Tensor,
        strengths: Tensor,
        weights: Tensor | None = None,
        member: int = 0,
    ) -> Tensor:
        """Mean negative log-likelihood of comparisons of values; see ``rlhf_core.losses.comparison_loss``."""
        biases = self.step_biases.view(-1, STRENGTHS + 1)[member]
        return comparison_loss(self.compare(chosen, rejected, member), strengths, biases, weights)

    def preference_probability(self, first: Tensor, second: Tensor) -> Tensor:
        """(members, batch) values of two responses each -> (batch,) probability that the first wins, if one does.

        Ties are left out, steps added up; an ensemble's is the mean of its members'.
        """
        found = []
        for member in range(self.members):
            biases = self.step_biases.view(-1, STRENGTHS + 1)[member]
            logits = comparison_logits(self.compare(first[member], second[member], member), biases)
            won, lost = logits[:, STRENGTHS + 1 :].logsumexp(dim=1), logits[:, :STRENGTHS].logsumexp(dim=1)
            found.append(torch.sigmoid(won - lost))
        return torch.stack(found).mean(dim=0)

    @torch.no_grad()
    def start_from_habits(self, strengths: Tensor, labels: Tensor | None = None) -> None:
        """Set the step biases, and the thresholds between ratings, to what raters gave how often, before training."""
        self.step_biases.copy_(fit_step_biases(strengths, STRENGTHS).expand_as(self.step_biases))
        if labels is not None:
            self.head.start_from_habits(labels)

    @torch.no_grad()
    def normalise(self, sequences: Sequences) -> None:
        """Choose mean and standard deviation so that the scores of these responses have mean 0 and deviation 1.

        Raises:
            TrainingDiverged: the scores are not finite, or all the same.
        """
        values, slopes = self.read_values(sequences)
        means, deviations = mean_and_deviation(values)
        self.reward_mean.copy_(means.view_as(self.reward_mean))
        self.reward_std.copy_(deviations.view_as(self.reward_std))
        members = self.normalised(values)
        if self.head_covariance is not None:
            self.reference_slopes = slopes.mean(dim=1)
            self.usual_variance = variance_of(members, self.variances(slopes)).quantile(USUAL)
        if self.members > 1:
            self.combined_mean.zero_()
            self.combined_std.fill_(1.0)
            combined = self.combine(members, self.variances(slopes))
            mean, deviation = mean_and_deviation(combined[None])
            self.combined_mean.copy_(mean[0])
            self.combined_std.copy_(deviation[0])
