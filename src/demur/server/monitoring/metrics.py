"""Prometheus metrics, in a registry of their own: two servers in one process do not mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from demur.base.arrays import Floats
from demur.core.decision import Decision
from demur.core.policy import Policy
from demur.server.requests.context import RequestContext
from demur.store.policies.folder import Change, PolicySet

PROBABILITIES = (
    0.001,
    0.01,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.99,
    0.999,
    1.0,
)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKENS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
UNDECIDED = "undecided"


class Metrics:
    """The server's metrics. Labels hold only names that the operator chose: they are bounded."""

    def __init__(self) -> None:
        self.registry = here = CollectorRegistry()
        self._requests = Counter(
            "demur_requests", "Requests answered.", ["route", "status"], registry=here
        )
        self._errors = Counter(
            "demur_errors", "Requests that failed, by error code.", ["code"], registry=here
        )
        self._in_flight = Gauge("demur_requests_in_flight", "Requests being served.", registry=here)
        by_decision = ["tenant", "policy", "decision"]
        self._decisions = Counter(
            "demur_decisions", "Decisions: respond, or a category.", by_decision, registry=here
        )
        self._overridden = Counter(
            "demur_overridden_decisions",
            "Decisions under thresholds of the caller's.",
            ["tenant", "policy"],
            registry=here,
        )
        self._doubt = Counter(
            "demur_doubt",
            "Scores that decide nothing: refused by the policy's rule, or undecided.",
            ["tenant", "policy", "how"],
            registry=here,
        )
        self._by_front = Counter(
            "demur_front_decisions",
            "Decisions of a cascade, by whether its front model made them.",
            ["policy", "by_front"],
            registry=here,
        )
        self._scores = Histogram(
            "demur_probability",
            "Calibrated probability of each control token.",
            ["policy", "choice"],
            buckets=PROBABILITIES,
            registry=here,
        )
        self._create_work_metrics(here)
        self._create_policy_metrics(here)
        self._create_monitor_metrics(here)

    def _create_work_metrics(self, here: CollectorRegistry) -> None:
        """Create the metrics of durations, tokens and stops."""
        self._decision_s = Histogram(
            "demur_decision_seconds",
            "From a request's arrival to its decision.",
            buckets=SECONDS,
            registry=here,
        )
        self._request_s = Histogram(
            "demur_request_seconds",
            "From a request's arrival to its end.",
            ["stream"],
            buckets=SECONDS,
            registry=here,
        )
        self._tokens = Counter("demur_tokens", "Tokens read and written.", ["kind"], registry=here)
        self._stops = Counter(
            "demur_stops",
            "Answers that a monitor stopped, by category.",
            ["tenant", "policy", "category"],
            registry=here,
        )
        self._leaked = Histogram(
            "demur_leaked_tokens",
            "Tokens of a stopped answer that had been sent.",
            ["policy"],
            buckets=TOKENS,
            registry=here,
        )

    def _create_policy_metrics(self, here: CollectorRegistry) -> None:
        """Create the metrics of policies in force, reloads, tenants and the log."""
        self._reloads = Counter(
            "demur_policy_changes", "What reloads did to policies.", ["kind"], registry=here
        )
        self._policy = Gauge(
            "demur_policy_info",
            "1 for each policy in force.",
            ["policy", "policy_hash"],
            registry=here,
        )
        self._faults = Gauge(
            "demur_policy_faults",
            "Policy files that are not in force as they stand.",
            registry=here,
        )
        self._unproven = Gauge(
            "demur_promises_not_certified",
            "Promises of a policy in force that its file says are certified and does not bear out.",
            ["policy", "policy_hash"],
            registry=here,
        )
        self._reload_failing = Gauge(
            "demur_reload_failing",
            "1 while policies and tenants cannot be looked at again.",
            registry=here,
        )
        self._tenants = Gauge(
            "demur_tenants_rejected", "1 while the tenants file cannot be used.", registry=here
        )
        self._log_dropped = Counter(
            "demur_log_lines_dropped",
            "Log lines that could not be written, or had no place.",
            registry=here,
        )

    def _create_monitor_metrics(self, here: CollectorRegistry) -> None:
        """Create the metrics of promises and the live scores that support them."""
        self._supported = Gauge(
            "demur_promise_supported",
            "1 while no live score speaks against a certified promise, 0 from the first alarm on.",
            ["policy", "policy_hash", "risk"],
            registry=here,
        )
        self._watched = Gauge(
            "demur_watched_scores",
            "Live scores taken in.",
            ["policy", "policy_hash"],
            registry=here,
        )
        self._lost = Gauge(
            "demur_promise_lost",
            "1 where a tenant's scores, or labels, speak against a promise.",
            ["policy", "policy_hash", "tenant", "risk"],
            registry=here,
        )
        self._drift = Gauge(
            "demur_drift_seen",
            "1 where a tenant's scores no longer look like the calibration scores.",
            ["policy", "policy_hash", "tenant"],
            registry=here,
        )
        self._blind = Gauge(
            "demur_watch_blind",
            "1 while live scores cannot be counted.",
            ["policy", "policy_hash"],
            registry=here,
        )
        self._scores_lost = Counter(
            "demur_watched_scores_lost", "Scores that no monitor will ever see.", registry=here
        )

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def request_started(self) -> None:
        """Count a request that has arrived."""
        self._in_flight.inc()

    def count_dropped_log_lines(self, lines: int) -> None:
        """Count log lines that were dropped. Called from any thread."""
        self._log_dropped.inc(lines)

    def request_finished(self, context: RequestContext) -> None:
        """Count a request that was answered or whose client has disconnected."""
        self._in_flight.dec()
        self._requests.labels(context.route, str(context.status or "gone")).inc()
        if context.code is not None:
            self._errors.labels(context.code).inc()
        if context.decision is not None:
            self._request_s.labels("yes" if context.stream else "no").observe(context.elapsed_s())
        if context.completion_tokens is not None:
            self._tokens.labels("prompt").inc(context.prompt_tokens or 0)
            self._tokens.labels("completion").inc(context.completion_tokens)

    def record_decision(
        self,
        context: RequestContext,
        policy: Policy,
        decision: Decision | None,
        logp_C: Floats | None,
    ) -> None:
        """Count a decision, or with None an undecided request. logp_C: the score, (C,), or None."""
        tenant, name = context.tenant or "", context.policy or ""
        self._decisions.labels(tenant, name, decision.words if decision else UNDECIDED).inc()
        if decision is None or decision.doubt:
            self._doubt.labels(tenant, name, "refused" if decision else UNDECIDED).inc()
        if context.overridden:
            self._overridden.labels(tenant, name).inc()
        if context.by_front is not None:
            self._by_front.labels(name, "yes" if context.by_front else "no").inc()
        self._decision_s.observe(context.elapsed_s())
        if logp_C is None:
            return
        # the histogram shows what thresholds are compared with: calibrated probabilities
        p_C = np.exp(policy.calibrator.apply(logp_C[None, :])[0])
        for choice, p in zip(policy.taxonomy.choices, p_C.tolist(), strict=True):
            self._scores.labels(name, choice).observe(p)

    def record_stop(self, context: RequestContext, category: str, leaked: int) -> None:
        """Count an answer that a monitor stopped. leaked: its tokens that had been sent."""
        self._stops.labels(context.tenant or "", context.policy or "", category).inc()
        self._leaked.labels(context.policy or "").observe(leaked)

    def set_policies(self, policies: PolicySet) -> None:
        """Show the policies in force, their unproven promises and their files' faults."""
        self._policy.clear()
        self._unproven.clear()
        for name, live in policies.policies.items():
            self._policy.labels(name, live.digest).set(1)
            unproven = sum(p.status == "not certified" for p in live.policy.promises)
            self._unproven.labels(name, live.digest).set(unproven)
        self._faults.set(len(policies.faults))

    def record_reload(
        self, policies: PolicySet, changes: Sequence[Change], complaint: str | None
    ) -> None:
        """Count the changes of a reload. complaint: the fault of the tenants file, or None."""
        for change in changes:
            self._reloads.labels(change.kind).inc()
        if changes:
            self.set_policies(policies)
        self._tenants.set(0 if complaint is None else 1)

    def set_reload_failing(self, failing: bool) -> None:
        """Show whether the last reload of policies and tenants failed."""
        self._reload_failing.set(failing)

    def clear_promise_gauges(self) -> None:
        """Clear the gauges of promises; the monitors set them again for those still watched."""
        for gauge in (self._supported, self._watched, self._lost, self._drift, self._blind):
            gauge.clear()

    def set_promise_status(
        self, policy: str, digest: str, supported: dict[str, bool], scores: int
    ) -> None:
        """Show which certified promises of a policy are supported, by risk, and its score count."""
        for risk, holds in supported.items():
            self._supported.labels(policy, digest, risk).set(holds)
        self._watched.labels(policy, digest).set(scores)

    def set_tenant_status(
        self, key: tuple[str, str, str], lost: Mapping[str, bool], *, drifted: bool
    ) -> None:
        """Show one tenant's drift and lost promises. key: policy, digest, tenant. lost: by risk."""
        self._drift.labels(*key).set(drifted)
        for risk, is_lost in lost.items():
            self._lost.labels(*key, risk).set(is_lost)

    def set_watch_blind(self, policy: str, digest: str, *, blind: bool) -> None:
        """Show whether live scores of a policy cannot be counted now."""
        self._blind.labels(policy, digest).set(blind)

    def count_lost_scores(self, scores: int) -> None:
        """Count scores that no monitor will see. Called from any thread."""
        self._scores_lost.inc(scores)
