"""Templates, texts and truncation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_zoo import TEMPLATE, make_data, make_sequences, make_tokenizer

from raydistill.data.preference import Labels, Prompt
from raydistill.data.preference.prompts import Candidate, ItemTexts, Rated, Template, Words
from raydistill.data.preference.tokens import fitted, tokenizer_identity
from raydistill.errors import DataError, ModelError

TOKENIZER = make_tokenizer()


def entry(title: str, rating: float | None = 4.0) -> Rated:
    return Rated(title, Words(("a", "b")), rating)


def item(title: str) -> Candidate:
    return Candidate(title, Words(("x", "y")))


def test_history_stands_newest_last_with_genres_and_ratings():
    source = "{% for h in history %}{{ h.title }}|{{ h.genres }}|{{ h.rating }}\n{% endfor %}{{ candidate.genres[1] }}"
    template = Template(source, rated=True, bare_items=False)
    text = template.render([entry("old", 2.5), entry("new", None)], item("c"))
    assert text == "old|a, b|2.5\nnew|a, b|None\ny"
    assert Template("{{ candidate.genres | join('/') }}", rated=False).render([], item("c")) == "x/y"


@pytest.mark.parametrize(
    ("source", "said", "where"),
    [
        ("{{ candidate.title }} {{ user }}", "nothing is called 'user'", "prompt.template"),
        ("a\n{{ candidate.titel }}", "an item has no field 'titel'", "prompt.template, line 2"),
        ("{{ candidate.title }}{% for h in history %}\n{{ h.genre }}{% endfor %}", "no field 'genre'", "line 2"),
        ("{{ candidate.rating }}", "no field 'rating'", "line 1"),
        ("{{ candidate.title }}{{ history.titles }}", "a list has no 'titles'", "line 1"),
        ("{{ candidate['name'] }}", "no field 'name'", "line 1"),
    ],
)
def test_what_is_missing_is_named_with_what_there_is(source, said, where):
    with pytest.raises(DataError, match="names something that is not there") as caught:
        Template(source, rated=True)
    assert said in caught.value.what
    assert where in caught.value.where
    assert caught.value.mend == (
        "there is history (a list, newest last; each with title, genres, rating) and candidate (title, genres)"
    )


def test_ratings_are_missed_where_the_source_has_none():
    with pytest.raises(DataError, match="no field 'rating'") as caught:
        Template(TEMPLATE, rated=False)
    assert "the source has no ratings" in caught.value.mend


@pytest.mark.parametrize(
    ("source", "said", "where"),
    [
        ("a\nb {% for h in history %}", "not valid Jinja2", "prompt.template, line 2"),
        ("{{ candidate.title", "not valid Jinja2", "prompt.template, line 1"),
        ("{% for h in history %}{{ h.title }}{% endfor %}", "does not use the candidate", "prompt.template"),
        ("\n{{ candidate.title + 1 }}", "fails for a history of 0", "prompt.template, line 2"),
        ("{{ candidate.title.__class__.__mro__ }}", "fails|not there", "prompt.template"),
        ("{{ candidate.title }}{{ history[0].title }}", "fails|not there", "prompt.template"),
    ],
)
def test_templates_that_cannot_be_meant(source, said, where):
    with pytest.raises(DataError, match=said) as caught:
        Template(source, rated=True)
    assert where in caught.value.where
    assert caught.value.mend


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ candidate.title }} {{ candidate.genres[0] }}", "an empty list has no entry 0"),
        ("{{ candidate.title }} {{ candidate.genres[5] }}", "a list of 2 has no entry 5"),
        ("{{ candidate.title }}{% for h in history %}{{ h.genres[0] }}{% endfor %}", "an empty list has no entry 0"),
        ("{{ candidate.title }}{% for h in history %}{{ h.rating + 1 }}{% endfor %}", "NoneType"),
        ("{{ candidate.title }}{% for h in history %}{{ '%.1f' | format(h.rating) }}{% endfor %}", "not NoneType"),
    ],
)
def test_a_template_is_tried_on_items_that_lack_something(source, said):
    with pytest.raises(DataError) as caught:
        Template(source, rated=True)
    assert said in caught.value.what
    assert "'a title with" in caught.value.what


@pytest.mark.parametrize(
    "source",
    [
        "{{ candidate.title }} {{ candidate.genres[0] }}",
        "{{ candidate.title }}{% for h in history %}{{ h.rating + 1 }}{% endfor %}",
    ],
)
def test_a_template_may_take_for_granted_what_all_items_have(tmp_path, source):
    data = make_data(tmp_path / "whole", prompt=Prompt(source, 60))
    assert data.lengths.size
    sequences = make_sequences()
    genres, ratings = list(sequences.attributes), sequences.ratings.copy()
    genres[7], ratings[5] = [""], np.nan
    with pytest.raises(DataError, match=r"names something|fails for"):
        make_data(
            tmp_path / "lacking",
            make_sequences(attributes=genres, ratings=ratings),
            labels=Labels(kind="click"),
            prompt=Prompt(source, 60),
        )


def test_the_candidate_of_a_prompt_that_fails_is_named():
    template = Template("{{ candidate.genres[1] }}", rated=False, bare_items=False)
    with pytest.raises(DataError, match=r"a list of 1 has no entry 1 .*history of 0 and the candidate 'Alien'"):
        template.render([], Candidate("Alien", Words(("war",))))


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("{{ 7 * 7 }} {% for %} {# x #}", "{{ 7 * 7 }} {% for %} {# x #}"),
        ("<b>Tom & Jerry</b>", "<b>Tom & Jerry</b>"),
        (" two\nlines\tand  a tab ", "two lines and a tab"),
        ("Amélie 千と千尋 🎬 ‮abc", "Amélie 千と千尋 🎬 ‮abc"),
        ("a [SEP] b[PAD]", "a [ SEP] b[ PAD]"),
        ("  ", "(untitled item i 7)"),
        ("", "(untitled item i 7)"),
    ],
)
def test_titles_are_data(title, clean):
    texts = ItemTexts([title], [[title, ""]], ["i\n7"], TOKENIZER.all_special_tokens)
    text = Template("<{{ candidate.title }}>", rated=True).render([], texts[0])
    assert text == f"<{clean}>"
    ids = TOKENIZER(text)["input_ids"]
    assert not set(ids[1:-1]) & {TOKENIZER.pad_token_id, TOKENIZER.cls_token_id, TOKENIZER.sep_token_id}


def test_nulls_among_the_genres_are_dropped():
    texts = ItemTexts(["a"], [[None, "war", None, "love"]], ["i"], [])
    assert str(texts[0].genres) == "war, love"


def one_by_one(render, wanted: int, max_tokens: int):
    """Return tokens and entries by dropping the oldest entry, one at a time."""
    for entries in range(wanted, -1, -1):
        tokens = TOKENIZER(render(entries))["input_ids"]
        if len(tokens) <= max_tokens:
            return tokens, entries
    return None


@given(
    prompts=st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=6), max_tokens=st.integers(4, 30)
)
@settings(max_examples=150, deadline=None)
def test_whole_entries_go_from_the_oldest_side_until_a_prompt_fits(prompts, max_tokens):
    def render(row: int, entries: int) -> str:
        words = prompts[row][len(prompts[row]) - entries :]
        return " ".join([*(f"film{row} " + "word " * n for n in words), "next 5"])

    ids, shown = fitted(render, np.array([len(words) for words in prompts]), TOKENIZER, max_tokens)
    for row, words in enumerate(prompts):
        expected = one_by_one(lambda entries, row=row: render(row, entries), len(words), max_tokens)
        assert (ids[row], shown[row]) == expected


def test_no_call_of_the_tokenizer_is_for_one_prompt_of_many():
    calls = []

    def counting(prompts, **arguments):
        calls.append(len(prompts))
        return TOKENIZER(prompts, **arguments)

    render = lambda row, entries: "word " * (entries + row % 30)  # noqa: E731
    fitted(render, np.full(1000, 50), counting, 40)
    assert len(calls) <= 2 + np.log2(50)
    assert calls[0] == 1000


def test_a_candidate_that_does_not_fit_is_named(tmp_path):
    sequences = make_sequences()
    titles = list(sequences.titles)
    titles[int(sequences.items[5])] = "the film " + "word " * 30
    with pytest.raises(DataError, match=r"has 35 tokens and may have 20: 'next the film word") as caught:
        make_data(tmp_path / "p", make_sequences(titles=titles), prompt=Prompt(TEMPLATE, 20))
    assert "at least 35" in caught.value.mend
    assert not list(tmp_path.glob("p*"))


def test_nothing_to_tell(tmp_path):
    with pytest.raises(DataError, match="no item has a title"):
        make_data(tmp_path / "p", make_sequences(titles=[""] * 61))
    bare = make_tokenizer()
    bare.backend_tokenizer.post_processor = None
    with pytest.raises(DataError, match="no tokens at all"):
        make_data(
            tmp_path / "p", tokenizer=bare, prompt=Prompt("{% if candidate.title == 'film7 word word' %}a{% endif %}")
        )


def test_tokenizers_that_cannot_be_used():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no padding token") as caught:
        tokenizer_identity(tokenizer)
    assert "pad_token" in caught.value.mend


def test_a_tokenizers_identity_is_not_moved_by_its_last_call():
    tokenizer = make_tokenizer()
    before = tokenizer_identity(tokenizer)
    tokenizer(["a b", "c"], padding=True, truncation=True, max_length=3)
    assert tokenizer_identity(tokenizer) == before
    assert tokenizer_identity(make_tokenizer(words=401)) != before
