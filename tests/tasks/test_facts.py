"""Claims about worlds of facts, tables of triples, and prompts from real words."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from interp.errors import ConfigError
from interp.models.hooked import Model
from interp.tasks import facts

RELATIONS = Path(__file__).parents[3] / "shared" / "data" / "relations"


@pytest.fixture(scope="module")
def world():
    return facts.world(64, 3, 16)


@dataclass(frozen=True)
class Words:
    """A tokenizer of one id per word, each with the space before it."""

    @dataclass(frozen=True)
    class Encoding:
        ids: list
        offsets: list

    bos_id: int | None = 0

    def encode(self, text):
        found = list(re.finditer(r" ?[^ ]+", text))
        return self.Encoding([1 + sum(map(ord, match.group().strip())) for match in found], [match.span() for match in found])


def test_no_name_tells_the_person_and_reversed_names_are_another_person(world):
    people = [tuple(pair) for pair in world.subjects.tolist()]
    assert len(set(people)) == 64 and {(b, a) for a, b in people} == set(people)
    for place in (0, 1):
        assert world.subjects[:, place].bincount().unique().tolist() == [0, 4]


def test_every_object_of_a_relation_belongs_to_as_many_people(world):
    for relation in range(3):
        assert world.answers[:, relation].unique(return_counts=True)[1].tolist() == [4] * 16


def test_a_prompt_marks_the_subject_and_ends_where_the_answer_follows(world):
    prompts = world.prompts(world.facts[:4], 2, prefix=torch.full((4, 2), 1))
    assert world.text(prompts.tokens[0]) == "<bos> well well the home of Ada Ben is"
    assert world.text(prompts.tokens[0][prompts.subject[0]]) == "Ada Ben"
    assert prompts.last_subject.tolist() == [7] * 4 and prompts.last.tolist() == [8] * 4
    assert prompts.answer.tolist() == world.answers.flatten()[:4].tolist()


def test_training_rows_hold_one_true_fact_each_and_never_a_held_out_wording(world):
    generator = torch.Generator().manual_seed(0)
    rows, is_answer = world.rows(300, 11, generator=generator)
    assert (is_answer.sum(1) == 1).all() and (rows[:, 0] == 0).all()
    sentences = {}
    for way in range(4):
        prompts = world.prompts(world.facts, way)
        for row, answer, held in zip(
            prompts.tokens.tolist(), prompts.answer.tolist(), world.is_held_out(world.facts, way), strict=True
        ):
            sentences[tuple(row[1:])] = (answer, bool(held))
    for row, end in zip(rows.tolist(), is_answer.int().argmax(1).tolist(), strict=True):
        found = [sentences[tuple(row[end - n : end])] for n in (5, 6) if tuple(row[end - n : end]) in sentences]
        assert found == [(row[end], False)]


def test_each_fact_keeps_all_wordings_but_one(world):
    assert (world.held_out.sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((60, 3, 16), "subjects=60 is not a multiple of 32 up to 224; use 32"),
        ((64, 9, 16), "relations=9, but there are 1 to 6"),
        ((64, 3, 7), "subjects=64 cannot share objects=7 evenly; use a divisor of 64, 2 or more"),
    ],
)
def test_worlds_that_do_not_come_out_even_are_refused(shape, told):
    with pytest.raises(ConfigError, match=told):
        facts.world(*shape)


def test_a_lookup_has_every_pair_once_and_asks_at_its_second_token():
    table = facts.lookup(200, 20, seed=3)
    assert len({tuple(pair) for pair in table.pairs.tolist()}) == 200
    assert table.prompts.last.unique().tolist() == [1] and table.prompts.last_subject.unique().tolist() == [1]
    with pytest.raises(ConfigError, match="facts=401, but 20 tokens make 400 pairs; use that many at most, and 1 at least"):
        facts.lookup(401, 20)


def test_text_of_different_lengths_is_padded_after_its_last_token():
    prompts = facts.from_text(Words(), ["the song of Ada is", "Ben Cleo has"], ["Ada", "Ben Cleo"], [" one", " two words"])
    assert prompts.subject.int().tolist() == [[0, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]]
    assert prompts.last.tolist() == [5, 3] and prompts.tokens[1, 4:].tolist() == [0, 0]
    assert prompts.answer.tolist() == [Words().encode(word).ids[0] for word in ("one", "two")]
    assert facts.from_text(Words(bos_id=None), ["Ada is"], ["Ada"], [" x"]).last_subject.tolist() == [0]


def test_a_subject_that_is_not_in_its_prompt_is_told():
    with pytest.raises(
        ConfigError, match="the subject 'Rome' does not stand in the prompt 'The capital of Italy is'; write it as"
    ):
        facts.from_text(Words(), ["The capital of Italy is"], ["Rome"], [" Rome"])


def test_prompts_without_a_subject_are_refused(world):
    prompts = world.prompts(world.facts[:3], 0)
    with pytest.raises(ConfigError, match=r"prompt 0 has no subject token \(3 of 3 have none\); mark one or more"):
        facts.Prompts(prompts.tokens, torch.zeros_like(prompts.subject), prompts.last, prompts.answer)


def test_a_file_that_is_no_relation_is_told(tmp_path):
    (tmp_path / "r.json").write_text('{"name": "x"}')
    with pytest.raises(ConfigError, match=r"r.json is no relation \('samples'\); expected JSON with name, prompt_templates"):
        facts.read_relation(tmp_path / "r.json")


@pytest.mark.skipif(not RELATIONS.is_dir(), reason="no ../shared/data/relations")
@pytest.mark.parametrize("name", ["factual/country_capital_city", "factual/star_constellation", "commonsense/fruit_inside_color"])
def test_real_relations_become_prompts_whose_subject_tokens_spell_the_subject(name):
    relation = facts.read_relation(RELATIONS / f"{name}.json")
    tokenizer = Model.load("stdlib-4l").tokenizer
    assert tokenizer is not None
    prompts = relation.prompts(tokenizer)
    assert len(prompts) == len(relation.pairs) > 20
    for (subject, _), row, marks in zip(relation.pairs, prompts.tokens, prompts.subject, strict=True):
        spelt = tokenizer.decode(row[marks].tolist())
        assert subject in spelt and len(spelt) <= len(subject) + 3  # a token may cover a space or a full stop beside it


def test_new_objects_differ_and_belong_to_the_relation():
    small = facts.world(32, 3, 8)
    wanted = small.other_objects(small.facts)
    old = small.answers[small.facts[:, 0], small.facts[:, 1]]
    assert (wanted != old).all()
    for relation in range(3):
        assert torch.isin(wanted[small.facts[:, 1] == relation], small.answers[:, relation]).all()


def test_a_spread_of_facts_has_all_relations(world):
    for n in (24, 48, 64, 96, 192):
        counts = world.spread(n)[:, 1].bincount()
        assert len(counts) == 3 and counts.max() - counts.min() <= 1


def test_the_others_are_all_but_the_fact_and_the_same_person_has_the_other_relations(world):
    assert world.facts[~world.but(world.facts[5])].tolist() == [world.facts[5].tolist()]
    asked = world.same_person(world.facts[4:6])
    assert len(asked) == 2
    answers = {int(each.answer[0]) for each in asked}
    assert answers == set(world.answers[1].tolist()) - {int(world.answers[1, 1])}


def test_contexts_ask_for_what_is_wanted_after_fillers(world):
    some = world.facts[:6]
    wanted = world.other_objects(some)
    found = world.contexts(some, wanted, (0, 2), (0, 2), generator=torch.Generator().manual_seed(0))
    plain = [world.prompts(some, way).tokens.shape[1] for way in (0, 0, 2, 2)]
    assert [each.tokens.shape[1] for each in found] == [length + more for length, more in zip(plain, (0, 2, 0, 2), strict=True)]
    assert all(torch.equal(each.answer, wanted) for each in found)
    assert torch.isin(found[1].tokens[:, 1:3], world.fillers).all()
