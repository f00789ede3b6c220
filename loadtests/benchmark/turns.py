"""Runs the scenarios in turns, and measures each turn: its results and its cost.

Turns are short and interleaved, so that whatever slows the machine down affects all scenarios alike.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from itertools import chain

import click

from loadtests.benchmark.driving import ready_generator, result_of, wait_until_ready
from loadtests.benchmark.figures import Answer, Figures, Memory, Run, Usage, answer_to, figures_of, run_of
from loadtests.benchmark.scenarios import Question
from loadtests.benchmark.targets import Target, jobs_of, stored_of
from loadtests.support.processes import cpu_s, machine_cpu_s, resident_mib
from storage.client import Client

WARM_UP_PART = 0.5
"""Length of the warm-up of each scenario, as a part of a turn. It is not measured: caches fill, collections grow."""

HALF = 0.5


class Turns:
    """The targets, the nodes of the MongoDB that they share, and what was measured so far."""

    def __init__(self, mongod_pids: Sequence[int], client: Client, targets: Sequence[Target], seconds: float) -> None:
        self._mongod_pids = mongod_pids
        self._client = client
        self._targets = targets
        self._seconds = seconds
        self._acknowledged = {target.scenario.name: 0 for target in targets}
        self._runs: dict[str, list[Run]] = {target.scenario.name: [] for target in targets}
        self._latest: dict[str, Run] = {}

    async def measure(self, rounds: int) -> None:
        """Warm up, and then give every scenario one turn in each round."""
        for target in self._targets:
            say(f"warming up: {target.scenario.name}")
            await self._run(target, self._seconds * WARM_UP_PART, seed=0)
        for number in range(rounds):
            for target in self._order_of(number):
                run = await self._run(target, self._seconds, seed=number + 1)
                self._runs[target.scenario.name].append(run)
                say(f"round {number + 1} of {rounds}: {target.scenario.name}: {run.events_per_s:,.0f} events/s")

    async def figures(self) -> list[Figures]:
        """Return the figures of every scenario, with the number of events that its database has."""
        return [
            figures_of(
                target.scenario,
                self._runs,
                acknowledged=self._acknowledged[target.scenario.name],
                stored=await stored_of(self._client, target),
            )
            for target in self._targets
        ]

    def answers(self, questions: Iterable[Question]) -> list[Answer]:
        """Return the answers to questions about the scenarios."""
        return [answer_to(question, self._runs) for question in questions]

    def _order_of(self, number: int) -> Sequence[Target]:
        """Return the order of a round. It varies, so that no scenario always follows the same other one.

        Example: the rounds of three scenarios a, b and c are abc, acb, cab, cba, bca and bac.
        """
        first = number % len(self._targets)
        order = [*self._targets[first:], *self._targets[:first]]
        return order[::-1] if number % 2 else order

    async def _run(self, target: Target, seconds: float, seed: int) -> Run:
        scenario = target.scenario
        rate = self._latest[scenario.half_of].events_per_s * HALF / scenario.batch_size if scenario.half_of else 0
        await self._client.admin.command("fsync")  # so that a turn does not pay for the checkpoint of the one before
        async with AsyncExitStack() as stack:
            generators = [
                await stack.enter_async_context(ready_generator(job)) for job in jobs_of(target, seconds, rate, seed)
            ]
            await asyncio.gather(*map(wait_until_ready, generators))
            before = self._usage(target)
            results = await asyncio.gather(*map(result_of, generators))
            run = run_of(results, before, self._usage(target), self._memory(target))
        for rejection in chain.from_iterable(result.rejections for result in results):
            raise click.ClickException(f"{scenario.name}: a request was rejected: {rejection}")
        self._acknowledged[scenario.name] += run.acknowledged
        self._latest[scenario.name] = run
        return run

    def _usage(self, target: Target) -> Usage:
        return Usage(cpu_s(target.worker_pids), cpu_s(self._mongod_pids), machine_cpu_s())

    def _memory(self, target: Target) -> Memory:
        return Memory(
            workers_mib=[resident_mib([pid]) for pid in target.worker_pids],
            supervisor_mib=0 if target.server is None else resident_mib([target.server.pid]),
            mongod_mib=resident_mib(self._mongod_pids),
        )


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)
