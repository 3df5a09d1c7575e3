"""Work is shared out between tenants in turn."""

import threading

import pytest

from demur.base.errors import BackendBusy
from demur.engines.inprocess.grammar.fair_queue import FairQueue


def test_a_tenant_with_little_work_does_not_wait_for_one_with_much():
    queue = FairQueue(2, 100, "test")
    gate, done, order = threading.Event(), threading.Event(), []
    for n in range(20):
        queue.put("much", lambda n=n: (gate.wait(10), order.append(f"much {n}")))
    queue.put("little", lambda: (order.append("little"), done.set()))
    assert done.wait(10)  # one thread is always left to others
    assert order == ["little"]
    gate.set()
    last = threading.Event()
    queue.put("other", last.set)
    assert last.wait(10)
    queue.close()


def test_turns_are_taken():
    queue = FairQueue(1, 100, "test")
    gate, order, over = threading.Event(), [], threading.Event()
    queue.put("first", lambda: gate.wait(10))
    for n in range(3):
        for tenant in ("a", "b"):
            queue.put(tenant, lambda tenant=tenant, n=n: order.append(tenant + str(n)))
    queue.put("c", over.set)
    gate.set()
    assert over.wait(10)
    while len(order) < 6:
        threading.Event().wait(0.01)
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    queue.close()


def test_a_tenant_has_so_much_waiting_and_no_more():
    queue = FairQueue(1, 2, "test")
    gate, begun = threading.Event(), threading.Event()
    queue.put("a", lambda: (begun.set(), gate.wait(10)))
    assert begun.wait(10)
    for _ in range(2):
        queue.put("a", lambda: None)
    with pytest.raises(BackendBusy, match="2 schemas of this tenant wait"):
        queue.put("a", lambda: None)
    queue.put("b", lambda: None)
    gate.set()
    queue.close()
