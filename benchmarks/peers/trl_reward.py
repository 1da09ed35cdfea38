"""TRL's reward trainer; runs in the environment ``.venv-peers/transformers``."""

import tempfile

import torch
from datasets import Dataset
from transformers import LlamaForSequenceClassification
from trl import RewardConfig, RewardTrainer

from benchmarks.peers.llama import configure
from benchmarks.peers.program import Work, serve
from benchmarks.peers.shapes import SIZES, VOCABULARY, Shape
from benchmarks.peers.words import PAD, word_tokenizer


def reward_step(size: str, batch: int, length: int, steps: int, learning_rate: float, **_: bool) -> Work:
    """The trainer's own loss and optimiser over pairs, all weights; loading of data is left out."""
    torch.manual_seed(0)

    def prepare(shape: Shape) -> RewardTrainer:
        config = configure(shape)
        config.num_labels, config.pad_token_id = 1, PAD
        pairs = torch.randint(3, VOCABULARY, (2, batch // 2, length)).tolist()
        with tempfile.TemporaryDirectory() as folder:
            arguments = RewardConfig(
                output_dir=folder,
                per_device_train_batch_size=batch // 2,
                learning_rate=learning_rate,
                max_grad_norm=0.0,
                max_length=length,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            )
            trainer = RewardTrainer(
                model=LlamaForSequenceClassification(config),
                args=arguments,
                processing_class=word_tokenizer(),
                train_dataset=Dataset.from_dict({"chosen_ids": pairs[0], "rejected_ids": pairs[1]}),
            )
        trainer.create_optimizer()
        trainer.model.train()
        return trainer

    def run(trainer: RewardTrainer, steps: int) -> int:
        tokens = 0
        for inputs in trainer.get_train_dataloader():
            for _ in range(steps):
                trainer.compute_loss(trainer.model, dict(inputs)).backward()
                trainer.optimizer.step()
                trainer.model.zero_grad()
                tokens += inputs["input_ids"].numel()
        return tokens

    run(prepare(Shape(64, 1)), 1)  # loads the libraries, so that memory counts the task alone
    trainer = prepare(SIZES[size])
    return lambda: {"tokens": run(trainer, steps)}


if __name__ == "__main__":
    serve({"reward-step": reward_step})
