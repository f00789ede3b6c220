"""The scenarios take turns, and each turn is measured: what came of it, and its cost. Imports targets and figures."""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from itertools import chain

import click

from loadtests.benchmark.driving import readiness_of, ready_generator, result_of
from loadtests.benchmark.figures import Answer, Figures, Memory, Run, Usage, answer_to, figures_of, run_of
from loadtests.benchmark.scenarios import Question
from loadtests.benchmark.targets import Target, jobs_of, stored_of
from loadtests.support.processes import cpu_s, machine_cpu_s, resident_mib
from storage.client import Client
from storage.embedded import EmbeddedMongod

WARM_UP_PART = 0.5
"""Of a turn's time, once before the first round, and not measured: caches fill, and collections begin to grow."""

HALF = 0.5


class Turns:
    """The targets, the one `mongod` under all of them, and what was measured so far."""

    def __init__(self, mongod: EmbeddedMongod, client: Client, targets: Sequence[Target], seconds: float) -> None:
        self._mongod = mongod
        self._client = client
        self._targets = targets
        self._seconds = seconds
        self._acknowledged = {target.scenario.name: 0 for target in targets}
        self._runs: dict[str, list[Run]] = {target.scenario.name: [] for target in targets}
        self._latest: dict[str, Run] = {}

    async def take(self, rounds: int) -> None:
        """Warm up, then let the scenarios take turns."""
        for target in self._targets:
            say(f"warming up: {target.scenario.name}")
            await self._run(target, self._seconds * WARM_UP_PART, seed=0)
        for number in range(rounds):
            first = number % len(self._targets)  # a turn is not always behind the same other one
            for target in (*self._targets[first:], *self._targets[:first]):
                run = await self._run(target, self._seconds, seed=number + 1)
                self._runs[target.scenario.name].append(run)
                say(f"round {number + 1} of {rounds}: {target.scenario.name}: {run.events_per_s:,.0f} events/s")

    async def figures(self, *, has_ceiling: bool) -> list[Figures]:
        """The outcome of every scenario, with what its database really holds."""
        ceilings = self._runs[self._targets[0].scenario.name] if has_ceiling else None
        return [
            figures_of(
                target.scenario,
                self._runs[target.scenario.name],
                ceilings,
                acknowledged=self._acknowledged[target.scenario.name],
                stored=await stored_of(self._client, target),
            )
            for target in self._targets
        ]

    def answers(self, questions: Iterable[Question]) -> list[Answer]:
        """The answers to questions about the scenarios."""
        return [answer_to(question, self._runs) for question in questions]

    async def _run(self, target: Target, seconds: float, seed: int) -> Run:
        scenario = target.scenario
        pace = self._latest[scenario.half_of].events_per_s * HALF / scenario.batch_size if scenario.half_of else 0
        await self._client.admin.command("fsync")  # no scenario pays for the checkpoint of the one before
        async with AsyncExitStack() as stack:
            generators = [
                await stack.enter_async_context(ready_generator(job)) for job in jobs_of(target, seconds, pace, seed)
            ]
            await asyncio.gather(*map(readiness_of, generators))
            before = self._usage(target)
            results = await asyncio.gather(*map(result_of, generators))
            run = run_of(results, before, self._usage(target), self._memory(target))
        for refusal in chain.from_iterable(result.refusals for result in results):
            raise click.ClickException(f"{scenario.name}: a request was refused: {refusal}")
        self._acknowledged[scenario.name] += run.acknowledged
        self._latest[scenario.name] = run
        return run

    def _usage(self, target: Target) -> Usage:
        return Usage(cpu_s(target.worker_pids), cpu_s([self._mongod.pid]), machine_cpu_s())

    def _memory(self, target: Target) -> Memory:
        return Memory(
            workers_mib=[resident_mib([pid]) for pid in target.worker_pids],
            supervisor_mib=0 if target.server is None else resident_mib([target.server.pid]),
            mongod_mib=resident_mib([self._mongod.pid]),
        )


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)
