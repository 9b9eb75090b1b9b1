"""Every form of text that users have, and what they are told about the others."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import FAST
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator
from implicitrm_sk._keys import codes_of
from implicitrm_sk._validation import check_groups
from implicitrm_sk.datasets import read_feedback_log
from implicitrm_sk.embedding import response_text
from implicitrm_sk.embedding._text import as_plain_text, read_text
from implicitrm_sk.inspection import shift_report

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
    "parts of the Responses API": [
        [
            {"role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "4"}]},
        ]
    ],
    "parts that are strings": [[USER, {"role": "assistant", "content": ["4"]}]],
    "ShareGPT": [[{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]],
    "ShareGPT in a dict": [
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
    ],
    "LangChain": [[{"type": "human", "content": "2 + 2?"}, {"type": "ai", "content": "4"}]],
    "JSON in a column of messages": pd.DataFrame({"messages": [json.dumps([USER, ASSISTANT])]}),
    "JSON in a dict": [{"messages": json.dumps([USER, ASSISTANT])}],
    "messages of a table": [
        np.array([USER | {"tool_calls": None}, ASSISTANT | {"tool_calls": None}], dtype=object)
    ],
    "no calls": [[USER | {"tool_calls": np.array([])}, ASSISTANT | {"tool_calls": []}]],
    "response repeats its prompt": [([USER], [USER, ASSISTANT])],
    "response repeats a prompt of text": [("2 + 2?", [USER, ASSISTANT])],
    "one message each": [{"prompt": USER, "response": ASSISTANT}],
}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 2}}}
CALLED = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call>'
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "4"}


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": [CALL]},
        {"tool_calls": [CALL]},
        {"content": "", "tool_calls": (CALL,)},
        {"content": [], "tool_calls": np.array([CALL], dtype=object)},
        {"content": None, "function_call": CALL["function"]},
        {"content": None, "tool_calls": None, "function_call": CALL["function"]},
        {"content": None, "tool_calls": [{"name": "add", "args": {"a": 2, "b": 2}, "id": "c1"}]},
        # Through a table, where every call has the fields of all.
        {
            "content": None,
            "tool_calls": [
                {"function": {"name": "add", "arguments": {"a": 2, "b": 2, "city": None}}}
            ],
        },
        {"tool_calls": [{"function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}]},
    ],
)
def test_calls_of_tools_are_part_of_what_the_assistant_says(message):
    """Also where a completion ends with a turn of a tool, as in a GRPO run that hits its limit."""
    completion = [{"role": "assistant"} | message, RESULT]
    said = (*ROW[:1], ("assistant", CALLED), ("tool", "4"))
    assert read_text([([USER], completion)]) == [said]
    assert read_text([("2 + 2?", completion)]) == [said]
    assert read_text([[USER, *completion, ASSISTANT]]) == [(*said, ("assistant", "4"))]
    spoken = [{"role": "assistant"} | message | {"content": "Let me see."}]
    assert read_text([("2 + 2?", spoken)])[0][1] == ("assistant", f"Let me see.\n{CALLED}")


def test_calls_through_parquet(tmp_path):
    chats = [
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, ASSISTANT],
        [USER, ASSISTANT],
        [USER, ASSISTANT | {"tool_calls": []}],
    ]
    pd.DataFrame({"messages": chats}).to_parquet(tmp_path / "log.parquet")
    assert read_text(pd.read_parquet(tmp_path / "log.parquet")) == read_text(chats)


def test_conversations_are_groups():
    chats = [[USER], [USER | {"content": "3 + 3?"}], [USER | {"tool_calls": None}]]
    for groups in (
        chats,
        [np.array(chat) for chat in chats],
        pd.Series(chats),
        pd.Series([tuple(chat) for chat in chats]),
        [chat[0] for chat in chats],
    ):
        assert check_groups(groups, 3).tolist() == [0, 1, 0]
    assert check_groups(["b", "a", "b"], 3).tolist() == ["b", "a", "b"]


def test_conversations_are_groups_of_every_method():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = ((X[:, :1] > 0) & (rng.random((200, 2)) < 0.5)).astype(int)
    numbers = np.arange(200) // 2
    chats = [[USER | {"content": f"q{number}"}] for number in numbers]
    results = []
    for groups in (numbers, chats):
        est = ImplicitRewardEstimator(**FAST)
        search = BatchedSearchCV(clone(est), {"dropout": [0.0, 0.1]}, cv=GroupKFold(3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of so short fits
            search.fit(X, y, groups=groups)
            est.fit(X, y, groups=groups)
            shift = str(shift_report(est, X, X, groups_new=groups, groups_log=groups))
        results.append(
            (search.cv_results_["mean_test_score"].tolist(), est.predict(X).tolist(), shift)
        )
    assert results[0] == results[1]


def test_missing_prompts_are_groups_of_their_own():
    assert codes_of([None, "a", float("nan"), pd.NA, "a", pd.NaT, [USER]]).tolist() == [
        2, 0, 3, 4, 0, 5, 1
    ]  # fmt: skip


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
    mixed = pd.Series([("a", "b"), "c", [ASSISTANT], {"prompt": "a", "response": ""}])
    assert read_text(mixed) == [
        (("user", "a"), ("assistant", "b")),
        "c",
        (("assistant", "4"),),
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
        ([USER, ASSISTANT], ValueError, "one list of chat messages.*Put it into a list"),
        (("a", "b"), ValueError, "X is one tuple of two strings.*a list of two texts"),
        (["a", None], ValueError, "row 1 of X holds a missing text .None.*Leave such rows out"),
        ([("a", float("nan"))], ValueError, "row 0 of X holds a missing text .nan"),
        (pd.DataFrame({"prompt": ["a"], "response": [None]}), ValueError, "row 0.*missing text"),
        (pd.Series(["a", pd.NA]), ValueError, "row 1.*missing text"),
        ([("a", 3)], TypeError, "row 0 of X holds a int; expected a .prompt, response."),
        ([b"a"], TypeError, "row 0 of X holds a bytes"),
        ([("a", "b", "c")], TypeError, "row 0 of X holds a tuple of 3"),
        ([[]], TypeError, "row 0 of X holds a list of 0"),
        ([{"question": "a"}], ValueError, r"row 0 of X is a dict with the keys \['question'\]"),
        (pd.DataFrame({"q": ["a"], "a": ["b"]}), ValueError, r"columns \['q', 'a'\].*Rename"),
        (np.array([["a", "b", "c"]]), ValueError, r"shape \(1, 3\)"),
        ([[USER | {"tool_calls": [1]}]], ValueError, "row 0 of X has a message with tool_calls"),
        ([[{"role": "user", "content": [{"type": "image"}]}]], ValueError, "not text only"),
        ([[{"role": "user", "content": None}]], ValueError, "row 0 of X holds a missing text"),
        ([[USER]], ValueError, "row 0 of X is a chat without an assistant turn .its roles are u"),
        ([[USER], [USER, ASSISTANT]], ValueError, "row 0 of X is a chat without an assistant turn"),
        (pd.DataFrame({"messages": [[USER, USER]]}), ValueError, "row 0.*without an assistant"),
        ([("a", [USER])], ValueError, "row 0 of X has a response without an assistant turn"),
        ([("a", [RESULT])], ValueError, "its roles are tool"),
        ([[USER, ASSISTANT, USER]], ValueError, "continues after its last assistant turn"),
        ([{"messages": "hello"}], ValueError, "row 0 of X holds a string .* that is not JSON"),
        ([{"messages": "[1, 2"}], ValueError, "that is not JSON .Expecting"),
        ([{"messages": "[" * 100_000}], ValueError, "that is not JSON"),
        ([{"messages": "[1, 2]"}], ValueError, "a turn that is not a message .1."),
        ([{"messages": []}], TypeError, "row 0 of X holds a list of 0"),
        ([{"messages": None}], ValueError, "row 0 of X holds a missing text"),
        ([{"messages": [USER, {"speaker": "bot"}]}], ValueError, "the keys .'speaker'."),
        ([[{"from": "robot", "value": "a"}]], ValueError, "a message from 'robot'.*Rename"),
        ([[USER, {"role": "assistant", "content": [{"type": "image_url"}]}]], ValueError,
         "a part is 'image_url'.*kinds text, input_text"),
        ([[USER, {"role": "assistant", "tool_calls": "add(2, 2)"}]], ValueError, "cannot be read"),
        ([[USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]], ValueError, "cannot"),
        ([[USER, {"role": None, "content": "a"}]], ValueError, "not a message .the keys"),
        (["a\ud83d"], ValueError, "row 0 of X is not valid Unicode text.*surrogate"),
    ],
)  # fmt: skip
def test_anything_else_is_named(X, error, message):
    with pytest.raises(error, match=message):
        read_text(X)


def test_plain_text_is_one_line_per_message():
    assert as_plain_text(ROW) == "2 + 2?\n4"
    assert as_plain_text("2 + 2?") == "2 + 2?"


def test_advice_for_a_cut_emoji_works():
    repaired = "a\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert read_text([repaired]) == ["a\ufffd"]


# ---------------------------------------------------------------------- responses


def test_the_text_of_a_response_is_that_of_the_turn_acted_on():
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Where?", "id": "ask"},
        {"role": "user", "content": "Bern."},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    long = '<tool_call>{"name": "look", "arguments": null}</tool_call>\nsun\nIt is sunny.'
    assert response_text([turns, turns[:2], ("a", "b"), "c"]) == [long, "Where?", "b", "c"]
    rows = [{"messages": turns, "turn": 5}, {"messages": turns, "turn": "ask"}]
    log = read_feedback_log(rows, turn="turn")
    for X in (log.X, log.response, log.response.tolist()):
        assert response_text(X) == [long, "Where?"]
    with pytest.raises(ValueError, match="row 0 of X is a chat that continues after"):
        response_text([turns[:3]])


@pytest.mark.parametrize("role", ["human", "User", "customer"])
def test_a_turn_of_any_other_role_asks(role):
    """Only turns of the assistant and of tools answer: an unknown name does not join them."""
    asked, said = {"role": role, "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
    log = [
        {"messages": [asked, said, asked | {"content": "Thanks"}]},
        {"messages": [asked | {"content": "3 + 3?"}, said]},
    ]
    data = read_feedback_log(log)
    assert data.response.tolist() == ["4", "4"] and data.groups.tolist() == [0, 1]
    pairs = [{"prompt": [asked], "response": "4"}, {"prompt": [asked], "response": [said]}]
    data = read_feedback_log(pairs)
    assert data.response.tolist() == ["4", "4"] and data.prompt.tolist() == [[asked], [asked]]
    assert response_text([[asked, said]]) == ["4"]


def test_parts_are_the_content_of_a_message():
    """The AI SDK keeps text in parts, beside a content that is empty or a copy."""
    parts = [{"type": "step-start"}, {"type": "text", "text": "4"}]
    question = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "2 + 2?"}]}
    for more in ({}, {"content": ""}, {"content": "4"}, {"content": None}):
        chat = [question, {"id": "2", "role": "assistant", "parts": parts} | more]
        assert read_text([chat]) == [ROW]
    called = {"role": "assistant", "content": "", "parts": [{"type": "tool-search", "input": {}}]}
    with pytest.raises(ValueError, match="row 0 of X .* a part is 'tool-search'"):
        read_text([[USER, called]])
    empty = {"role": "assistant", "content": "4", "parts": []}
    assert read_text([[USER, empty]]) == [ROW]
    # The content of a message of an API, without the message.
    assert read_text([("2 + 2?", [{"type": "text", "text": "4"}])]) == [ROW]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response": "a", "messages": [USER, ASSISTANT]},
        {"prompt": "q", "response": "a", "completion": "b"},
        {"messages": [USER, ASSISTANT], "conversations": [USER, ASSISTANT]},
    ],
)
def test_two_columns_that_may_be_the_text_are_not_chosen_from(row):
    for X in ([row], pd.DataFrame([row])):
        with pytest.raises(ValueError, match="but only one of them can be meant"):
            read_text(X)
    row = {"prompt": "2 + 2?", "text": "4"}
    for X in ([row], pd.DataFrame([row])):
        with pytest.raises(ValueError, match="not known whether 'text' contains the prompt"):
            read_text(X)
    row = {"prompt": "2 + 2?", "response": "4", "text": "2 + 2? 4"}
    assert read_text([row]) == read_text(pd.DataFrame([row])) == [ROW]


def test_a_key_that_occurs_twice_in_json_of_a_chat_is_refused():
    text = (
        '[{"role": "user", "content": "q"}, {"role": "assistant", "role": "user", "content": ""}]'
    )
    with pytest.raises(ValueError, match="row 0 of the list.*'role' occurs twice in one object"):
        read_feedback_log([{"messages": text}])


def test_fields_that_are_null_were_not_there():
    """A table has every field in every row, also where the messages of a log have two forms."""
    of_role = {"role": "user", "content": "2 + 2?", "from": None, "value": None, "type": None}
    of_from = dict.fromkeys(of_role) | {"from": "gpt", "value": "4"}
    of_type = dict.fromkeys(of_role) | {"type": "ai", "content": "4"}
    for answer in (of_from, of_type):
        assert read_text(pd.DataFrame({"messages": [[of_role, answer]]})) == [ROW]
    with pytest.raises(ValueError, match="row 0 of X .* a turn that is not a message"):
        read_text(pd.DataFrame({"messages": [[of_role, dict.fromkeys(of_role)]]}))
    chats = [[], "[]", " []\n", [of_role], json.dumps([of_role]), [of_role, of_from]]
    data = read_feedback_log([{"messages": chat} for chat in chats])
    assert list(data.summary.left_out.values()) == [5] and data.row.tolist() == [5]
