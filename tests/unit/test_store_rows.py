"""Answers of the database as values."""

from worker.store.rows import Committed, known


def test_an_older_worker_goes_on_beside_a_newer_schema_that_answers_more() -> None:
    answer = {"seq": 7, "duplicate": False, "stored": 2, "a_field_of_next_year": True}
    done = Committed(**known(Committed, answer))
    assert (done.seq, done.duplicate, done.stored, done.upgraded) == (7, False, 2, 0)
