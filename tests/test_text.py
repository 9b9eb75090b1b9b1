"""Every form of text that users have, and what they are told about the others."""

import numpy as np
import pandas as pd
import pytest

from implicitrm_sk.embedding._text import as_plain_text, read_text

ROW = (("user", "2 + 2?"), ("assistant", "4"))
USER = {"role": "user", "content": "2 + 2?"}
ASSISTANT = {"role": "assistant", "content": "4"}


class Dataset:
    """What matters here of a Hugging Face Dataset."""

    def __init__(self, **columns):
        self.columns_, self.column_names = columns, list(columns)

    def __getitem__(self, key):
        return self.columns_[key]

    def __len__(self):
        return len(next(iter(self.columns_.values())))


FORMS = {
    "tuple": [("2 + 2?", "4")],
    "list": [["2 + 2?", "4"]],
    "array": np.array([["2 + 2?", "4"]]),
    "object array": np.array([["2 + 2?", "4"]], dtype=object),
    "dict": [{"prompt": "2 + 2?", "response": "4", "rating": 1.0}],
    "completion": [{"prompt": "2 + 2?", "completion": "4"}],
    "messages": [[USER, ASSISTANT]],
    "messages in a dict": [{"messages": [USER, ASSISTANT]}],
    "prompt and completion of messages": [([USER], [ASSISTANT])],
    "messages and text": [([USER], "4")],
    "content in parts": [[USER, {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]],
    "frame": pd.DataFrame({"prompt": ["2 + 2?"], "response": ["4"], "rating": [1.0]}),
    "frame of messages": pd.DataFrame({"messages": [[USER, ASSISTANT]]}),
    "series": pd.Series([("2 + 2?", "4")]),
    "dataset": Dataset(prompt=["2 + 2?"], completion=["4"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    assert read_text(FORMS[form]) == [ROW]


@pytest.mark.parametrize(
    "X",
    [
        ["a", "b"],
        np.array(["a", "b"]),
        np.array([["a"], ["b"]]),
        pd.Series(["a", "b"]),
        pd.DataFrame({"text": ["a", "b"], "n": [1, 2]}),
        pd.DataFrame({"answer": ["a", "b"]}),
        [{"text": "a"}, "b"],
        Dataset(text=["a", "b"]),
    ],
)
def test_plain_strings(X):
    assert read_text(X) == ["a", "b"]
    assert all(type(row) is str for row in read_text(X))


def test_forms_of_one_column_may_be_mixed():
    mixed = pd.Series([("a", "b"), "c", [USER], {"prompt": "a", "response": ""}])
    assert read_text(mixed) == [
        (("user", "a"), ("assistant", "b")),
        "c",
        (("user", "2 + 2?"),),
        (("user", "a"), ("assistant", "")),
    ]


def test_unusual_text_is_kept_as_it_is():
    texts = ["", " ", "\x00\x00", "👩‍👩‍👧 🤷🏽", "שלום مرحبا", "\u202e", "x" * 10**6]
    assert read_text(texts) == texts
    assert read_text([(text, text) for text in texts]) == [
        (("user", text), ("assistant", text)) for text in texts
    ]


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("text", TypeError, "X is one str.*Put a single response into a list"),
        (b"text", TypeError, "X is one bytes"),
        ({"prompt": "a", "response": "b"}, TypeError, "X is one dict"),
        (None, TypeError, "X is a NoneType"),
        (3, TypeError, "X is a int"),
        ([USER, ASSISTANT], ValueError, "one list of chat messages.*put it into a list"),
        (("a", "b"), ValueError, "X is one tuple of two strings.*a list of two texts"),
        (["a", None], ValueError, "row 1 of X holds a missing text .None.*Leave such rows out"),
        ([("a", float("nan"))], ValueError, "row 0 of X holds a missing text .nan"),
        (pd.DataFrame({"prompt": ["a"], "response": [None]}), ValueError, "row 0.*missing text"),
        (pd.Series(["a", pd.NA]), ValueError, "row 1.*missing text"),
        ([("a", 3)], TypeError, "row 0 of X holds a int, but expected is a .prompt, response."),
        ([b"a"], TypeError, "row 0 of X holds a bytes"),
        ([("a", "b", "c")], TypeError, "row 0 of X holds a tuple of 3"),
        ([[]], TypeError, "row 0 of X holds a list of 0"),
        ([{"question": "a"}], ValueError, r"row 0 of X is a dict with the keys \['question'\]"),
        (pd.DataFrame({"q": ["a"], "a": ["b"]}), ValueError, r"columns \['q', 'a'\].*Rename"),
        (np.array([["a", "b", "c"]]), ValueError, r"shape \(1, 3\)"),
        ([[USER | {"tool_calls": [1]}]], ValueError, "row 0 of X has a message with tool_calls"),
        ([[{"role": "user", "content": [{"type": "image"}]}]], ValueError, "not text only"),
        ([[{"role": "user", "content": None}]], ValueError, "row 0 of X holds a missing text"),
        (["a\ud83d"], ValueError, "row 0 of X is no valid Unicode text.*surrogate"),
    ],
)
def test_anything_else_is_named(X, error, message):
    with pytest.raises(error, match=message):
        read_text(X)


def test_plain_text_is_one_line_per_message():
    assert as_plain_text(ROW) == "2 + 2?\n4"
    assert as_plain_text("2 + 2?") == "2 + 2?"


def test_advice_for_a_cut_emoji_works():
    repaired = "a\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert read_text([repaired]) == ["a\ufffd"]
