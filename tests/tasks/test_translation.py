"""Claims about the small English and the small Spanish."""

import pytest
import torch

from interp.tasks import translation
from interp.tasks.pairs import PAD, STOP
from interp.tasks.translation import NounPhrase, Sentence, translations

CASES = {
    ("the red houses", "las casas rojas"): NounPhrase("the", "red", "house", True),
    ("some tall trees", "unos árboles altos"): NounPhrase("some", "tall", "tree", True),
    ("a green flower", "una flor verde"): NounPhrase("a", "green", "flower", False),
    ("the cat", "el gato"): NounPhrase("the", None, "cat", False),
}


def draw(n=200, seed=0):
    return translation.sentences(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("texts, phrase", CASES.items())
def test_adjectives_follow_their_nouns_and_agree(texts, phrase):
    pairs = translations([Sentence(phrase, "watch", NounPhrase("the", None, "dog", False))])
    verb, answer = ("watch", "miran") if phrase.plural else ("watches", "mira")
    assert translation.text(pairs.source[0]) == f"{texts[0]} {verb} the dog"
    assert translation.text(pairs.target[0]) == f"{texts[1]} {answer} el perro"


def test_every_spanish_word_stands_for_one_english_word_and_adjectives_cross():
    pairs = translations(draw())
    words = (pairs.target != PAD) & (pairs.target != STOP)
    assert torch.equal(pairs.sure.sum(2), words.long())
    english = (pairs.source != PAD).sum(1)
    assert torch.equal(pairs.sure.sum((1, 2)), english) and pairs.sure.any(1).sum(1).eq(english).all()
    assert (pairs.possible | ~pairs.sure).all() and pairs.possible.sum() > pairs.sure.sum()
    said = [Sentence(NounPhrase("the", "red", "house", True), "see", NounPhrase("a", None, "cat", False))]
    assert translations(said).sure[0, :4].nonzero().tolist() == [[0, 0], [1, 2], [2, 1], [3, 3]]
    agreeing = translations(said).possible[0] & ~translations(said).sure[0]
    assert agreeing.nonzero().tolist() == [[0, 2], [2, 2], [3, 2], [4, 5]]


def test_each_language_has_its_own_words():
    pairs = translations(draw(500))
    assert not set(pairs.source.unique().tolist()) & set(pairs.target.unique().tolist()) - {PAD}
    assert len(set(translation.VOCABULARY)) == len(translation.VOCABULARY)


def test_sentences_are_a_function_of_the_generator_and_hardly_ever_repeat():
    assert draw(20, 3) == draw(20, 3) != draw(20, 4)
    assert len(set(draw(1000))) > 950


def test_gender_is_told_by_the_noun_alone():
    contrast = translation.agreement_contrast(60, generator=torch.Generator().manual_seed(0))
    differ = contrast.clean != contrast.corrupt
    assert (differ.sum(1) == 1).all() and contrast.wrong is not None
    nouns = {word for noun in translation.NOUNS for word in (noun, noun + "s")}
    assert {translation.VOCABULARY[token] for token in contrast.clean[differ].tolist()} <= nouns
    asked = {
        (translation.VOCABULARY[a], translation.VOCABULARY[b]) for a, b in zip(contrast.answers, contrast.wrong, strict=True)
    }
    couples = {(each["m"], each["f"]) for each in translation.ARTICLES.values()}
    assert asked == couples | {(feminine, masculine) for masculine, feminine in couples}
