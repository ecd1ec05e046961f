"""A typical job of each use: what a model must be able to do, and how soon."""

from __future__ import annotations

import msgspec

from tagfit.quality.capability import UseCase


class Job(msgspec.Struct, frozen=True):
    """A typical job of a use: its length, and the time in which a person would want it done.

    The lengths and times are judgements, not measurements. A chat of 300 tokens in 30 seconds is
    10 tokens a second, below which people call it painful; a completion must come while one still
    looks; an agent works while one does something else.
    """

    capabilities: frozenset[str]
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    context_length: int | None = None
    """The least context that makes sense; None: Ollama's default for the machine."""

    @property
    def converses(self) -> bool:
        """A model that can think may do so."""
        return "chat" in self.capabilities

    def pace(self, seconds: float) -> float:
        """0.99 for a job done in a fifth of its time, 0.8 in just that, 0.5 in twice."""
        return 1 / (1 + (seconds / (2 * self.seconds)) ** 2)


CHAT = frozenset({"chat"})
JOBS: dict[UseCase, Job] = {
    "chat": Job(CHAT, 500, 300, 30),
    "code": Job(CHAT, 2000, 500, 50),
    # editors keep the prefix in the cache (github.com/ggml-org/llama.cpp/pull/9787)
    "autocomplete": Job(frozenset({"insert"}), 500, 30, 1),
    "agent": Job(CHAT | {"tools"}, 8000, 400, 60, context_length=32768),
    "embedding": Job(frozenset({"embedding"}), 512, 0, 1),
    "vision": Job(CHAT | {"vision"}, 1000, 300, 35),
}
