"""Ledger: reservations and spendings together never exceed the bounds, whatever threads do."""

import random
import threading

import pytest

from thinktune.errors import UserError
from thinktune.synthesis.ledger import Ledger, Price, Usage, parse_price


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("2/8", Price(2, 8, "USD")),
        ("2/8 CNY", Price(2, 8, "CNY")),
        ("cny 0.5/2.25", Price(0.5, 2.25, "CNY")),
        ("¥4/16", Price(4, 16, "CNY")),
        ("$0.27/1.1", Price(0.27, 1.1, "USD")),
    ],
)
def test_a_price_is_read_as_people_write_it(text, price):
    assert parse_price(text) == price


@pytest.mark.parametrize("text", ["", "2", "2/", "-1/2", "2/8/9", "$2/8 CNY", "two/eight", "2/8 rubles", "1e9/2"])
def test_any_other_price_is_refused_in_words(text):
    with pytest.raises(UserError, match=r"--price: is .*; write what a million tokens cost"):
        parse_price(text)


def test_a_cost_is_that_of_both_kinds_of_tokens():
    assert Price(2, 8).cost(Usage(1_000_000, 500_000)) == 6


def test_a_reservation_that_does_not_fit_is_refused_and_what_is_settled_is_free_again():
    ledger = Ledger(max_tokens=100)
    first = ledger.reserve(Usage(10, 50))
    assert first is not None
    ledger.settle(first, Usage(10, 20))
    assert ledger.spent == Usage(10, 20)
    assert ledger.reserve(Usage(10, 61)) is None
    assert ledger.is_spent
    assert Ledger(max_tokens=100).reserve(Usage(50, 50)) is not None


def test_one_that_may_fit_later_waits_for_the_others():
    ledger = Ledger(max_tokens=100)
    first = ledger.reserve(Usage(0, 80))
    found = []
    waiting = threading.Thread(target=lambda: found.append(ledger.reserve(Usage(0, 60))))
    waiting.start()
    waiting.join(0.1)
    assert not found
    ledger.settle(first, Usage(0, 30))
    waiting.join(5)
    assert found == [Usage(0, 60)]
    assert not ledger.is_spent


def test_closing_ends_those_that_wait():
    ledger = Ledger(max_tokens=100)
    ledger.reserve(Usage(0, 80))
    found = []
    waiting = threading.Thread(target=lambda: found.append(ledger.reserve(Usage(0, 60))))
    waiting.start()
    ledger.close()
    waiting.join(5)
    assert found == [None]


def test_a_server_that_overruns_makes_later_reservations_larger():
    ledger = Ledger(max_tokens=10_000)
    first = ledger.reserve(Usage(100, 100))
    ledger.settle(first, Usage(130, 300))
    assert ledger.reserve(Usage(100, 100)) == Usage(130, 300)


@pytest.mark.parametrize("bounds", [{"max_tokens": 5_000}, {"price": Price(2, 8), "max_cost": 0.02}])
def test_no_bound_is_exceeded_by_many_threads(bounds):
    ledger, seen = Ledger(**bounds), []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(200):
            wanted = Usage(chance.randrange(1, 40), chance.randrange(1, 100))
            reserved = ledger.reserve(wanted)
            if reserved is None:
                return
            ledger.settle(reserved, Usage(wanted.prompt_tokens, chance.randrange(wanted.reply_tokens + 1)))
            seen.append(ledger.spent)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = ledger.spent
    assert ledger.is_spent
    assert spent.total <= (ledger.max_tokens or spent.total)
    assert ledger.cost is None or ledger.cost <= 0.02
    assert spent.total > (4_500 if ledger.max_tokens else 2_000)  # and what there was is used
