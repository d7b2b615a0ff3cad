"""The options that say who does the work, of all commands that run steps. Imports nothing heavy."""

from dataclasses import dataclass

from trimtab.errors import ConfigurationError


@dataclass(frozen=True)
class WorkerOptions:
    """Who does the work.

    Args:
        jobs: Workers side by side, which share the blocks and steps of each stage. Here they are processes (default 1),
            each with its share of the threads and, where there are GPUs, one of them: on a CPU this is faster than one
            process with many threads. With --ray it is how many of the cluster's workers are used at most.
        threads: Threads of each worker; its share of the cores if not given. Last digits depend on it.
        ray: Run the steps on a Ray cluster: auto, local, host:port or ray://host:port (pip install 'trimtab[ray]').
    """

    jobs: int | None = None
    threads: int | None = None
    ray: str | None = None

    def check(self) -> None:
        """Raise ConfigurationError where a number is below 1."""
        for name, number in (("--jobs", self.jobs), ("--threads", self.threads)):
            if number is not None and number < 1:
                raise ConfigurationError(f"{name} is {number}: give at least 1")
