"""TRL's PPO, as its last release that has it; runs in the environment ``.venv-peers/trl-ppo``."""

import tempfile

import torch
from datasets import Dataset
from transformers import LlamaForSequenceClassification
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.peers.llama import configure, make
from benchmarks.peers.program import Work, serve
from benchmarks.peers.shapes import SIZES, VOCABULARY, Shape
from benchmarks.peers.words import PAD, word_tokenizer


def make_scorer(shape: Shape) -> LlamaForSequenceClassification:
    """Of the policy's size, with one number a sequence: reward model or value model."""
    config = configure(shape)
    config.num_labels, config.pad_token_id = 1, PAD
    return LlamaForSequenceClassification(config)


def ppo(size: str, samples: int, prompt: int, new: int, minibatch: int, learning_rate: float, **_: str) -> Work:
    """A whole iteration: all responses drawn in one batch, one epoch, all weights of policy and value model.

    Its best public settings for a CPU: no checkpointing and no bfloat16, which are its defaults.
    """
    folder = tempfile.TemporaryDirectory()
    torch.manual_seed(0)

    def prepare(shape: Shape) -> PPOTrainer:
        arguments = PPOConfig(
            output_dir=folder.name,
            per_device_train_batch_size=minibatch,
            gradient_accumulation_steps=samples // minibatch,
            num_mini_batches=samples // minibatch,
            num_ppo_epochs=1,
            local_rollout_forward_batch_size=samples,
            total_episodes=samples,
            response_length=new,
            temperature=1.0,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",  # each call of train is one iteration of a longer run
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        return PPOTrainer(
            args=arguments,
            processing_class=word_tokenizer(),
            model=make(shape),
            ref_model=make(shape),
            reward_model=make_scorer(shape),
            value_model=make_scorer(shape),
            train_dataset=Dataset.from_dict({"input_ids": torch.randint(3, VOCABULARY, (samples, prompt)).tolist()}),
        )

    prepare(Shape(64, 1)).train()  # loads the libraries, so that memory counts the task alone
    trainer = prepare(SIZES[size])

    def work() -> dict[str, int]:
        trainer.train()
        return {"tokens": samples * new, "samples": samples}

    work.folder = folder  # type: ignore[attr-defined]  # lives as long as the work
    return work


if __name__ == "__main__":
    serve({"ppo": ppo})
