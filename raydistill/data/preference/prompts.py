"""Prompts: a template, filled with a user's history and a candidate, as token ids that fit.

A template is Jinja2, in a sandbox. It sees

- ``history``: what the user had before, oldest first, so that the newest stands last; each with ``title``, ``genres``
  (a list that prints as words with commas) and, where the source has ratings, ``rating`` (None for one without);
- ``candidate``: ``title`` and ``genres`` of the item in question.

Titles are data: whatever braces, tags or names of special tokens they hold is text, never code and never a special
token.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raydistill.errors import DataError

FIELDS = "history (a list, newest last; each with title, genres{rating}) and candidate (title, genres)"
WHERE = "prompt.template"


@dataclass(frozen=True)
class Prompt:
    """What a model reads.

    Attributes:
        template: Jinja2 text, see :mod:`raydistill.data.preference.prompts`.
        max_tokens: Most tokens of a prompt, the tokenizer's special tokens included. The oldest entries of the history
            are left out, whole, until the prompt fits; the candidate is never cut.
    """

    template: str
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")


class Words(tuple):
    """Words that a template can loop over, and that print with commas."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item as a template sees it."""

    title: str
    genres: Words


@dataclass(frozen=True, slots=True)
class Rated:
    """An item of the history as a template sees it, with the user's rating."""

    title: str
    genres: Words
    rating: float | None


class _Missing(jinja2.StrictUndefined):
    """A name that a template uses and that is not there, said in words of a template's author."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is jinja2.utils.missing:
            return f"nothing is called {self._undefined_name!r}"
        if isinstance(self._undefined_name, int) and isinstance(self._undefined_obj, (list, tuple)):
            found = f"a list of {len(self._undefined_obj)}" if self._undefined_obj else "an empty list"
            return f"{found} has no entry {self._undefined_name}"
        if isinstance(self._undefined_obj, list):
            return f"a list has no {self._undefined_name!r}"
        return f"an item has no field {self._undefined_name!r}"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, without its checks (half of the time of rendering) for the plain fields of our own entries."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) in (Candidate, Rated) and attribute in type(obj).__slots__:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


class Template:
    """A prompt's template, compiled and tried out on every kind of item that there is.

    Args:
        source: Jinja2 text.
        rated: Whether the entries of a history have a ``rating``.
        unrated_entries: Whether that of some is None.
        bare_items: Whether some items have no genres.

    Raises:
        DataError: The template is not valid, names what is not there, or does not use ``candidate``.
    """

    def __init__(self, source: str, *, rated: bool, unrated_entries: bool = True, bare_items: bool = True) -> None:
        self.rated = rated
        self._fields = FIELDS.format(rating=", rating" if rated else "; the source has no ratings")
        environment = _Sandbox(undefined=_Missing, autoescape=False)
        try:
            names = jinja2.meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(
                f"the prompt's template is not valid Jinja2: {error.message}",
                where=f"{WHERE}, line {error.lineno}",
                mend="correct the template; {{ ... }} prints, {% ... %} is a statement",
            ) from None
        if unknown := sorted(names - {"history", "candidate"}):
            raise self._missing(f"nothing is called {', '.join(map(repr, unknown))}", None)
        if "candidate" not in names:
            raise DataError(
                "the prompt's template does not use the candidate: every item would get one score",
                where=WHERE,
                mend="put {{ candidate.title }} into it",
            )
        items = [Candidate("a title with genres", Words(("a genre", "another")))]
        items += [Candidate("a title without genres", Words())] if bare_items else []
        entries: list[Candidate | Rated] = items
        if rated:
            ratings = (4.0, None) if unrated_entries else (4.0,)
            entries = [Rated(item.title, item.genres, rating) for item in items for rating in ratings]
        for item in items:
            self.render([], item)
            for entry in entries:
                self.render([entry], item)
            self.render(entries * 3, item)

    def render(self, history: Sequence[Candidate | Rated], candidate: Candidate) -> str:
        """Return the text of one prompt.

        Raises:
            DataError: The template names what is not there, or fails in another way.
        """
        try:
            return self._template.render(history=history, candidate=candidate)
        except jinja2.UndefinedError as error:
            what = f"{error.message} (for a history of {len(history)} and the candidate {candidate.title!r})"
            raise self._missing(what, error) from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise DataError(
                f"the prompt's template fails for a history of {len(history)} and the candidate {candidate.title!r}: "
                f"{error}",
                where=_place(error),
                mend="correct the template; a rating may be None, and a list empty",
            ) from None

    def _missing(self, what: str, error: Exception | None) -> DataError:
        return DataError(
            f"the prompt's template names something that is not there: {what}",
            where=_place(error),
            mend=f"there is {self._fields}",
        )


class ItemTexts:
    """Titles and genres by item, cleaned: white space runs become one space, and special tokens become plain text.

    Args:
        titles: Titles by item id; the empty ones become ``(untitled item ID)``.
        genres: Lists of genres by item id; nulls in them are dropped.
        item_ids: Original ids by item id.
        special_tokens: Texts that the tokenizer would take for special tokens; a space is put after their first
            character, wherever a title or genre holds one.

    Attributes:
        untitled: How many items have no title.
    """

    def __init__(
        self, titles: Sequence[str], genres: Sequence[list[str]], item_ids: Sequence[str], special_tokens: Sequence[str]
    ) -> None:
        self._titles, self._genres, self._item_ids = titles, genres, item_ids
        self._special = sorted((token for token in special_tokens if len(token) > 1), key=len, reverse=True)

    def __getitem__(self, item: int) -> Candidate:
        title = self._clean(self._titles[item]) or f"(untitled item {self._clean(self._item_ids[item])})"
        genres = (genre for genre in self._genres[item] if genre is not None)  # files may hold nulls in their lists
        return Candidate(title, Words(filter(None, map(self._clean, genres))))

    def _clean(self, text: str) -> str:
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return " ".join(text.split())


def special_tokens(tokenizer: Any) -> list[str]:
    """Return every text that a tokenizer does not split but takes for a token of its own."""
    return sorted({*map(str, tokenizer.all_special_tokens), *map(str, tokenizer.get_added_vocab())})


def _place(error: Exception | None) -> str:
    """Return where in the template an error happened, as far as its traceback tells."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__ if error else None)
        if frame.filename == "<template>"
    ]
    return f"{WHERE}, line {lines[-1]}" if lines else WHERE
