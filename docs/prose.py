"""Check the mechanical rules of prose: `python docs/prose.py [FILE ...]`, part of `make lint`.

Checked are README, the pages, the text of the examples, and the docstrings and messages of the
package. A rule that needs a reader (one fact per sentence, no fragments) is not checked. Quoted and
generated text is left out: code, tables of numbers, titles of sources.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_WORDS = 25
RULES = {
    'write "is not a"': r"(?<!there )\b(is|are|was|were) no\b(?! (longer|more|less|other|\w+er)\b)",
    'write "expected X, got Y"': r"\bexpected (is|are)\b",
    'write "show", "distinguish" or "identify"': r"\b(tells?|told|telling)\b",
    'write "attract"': r"\bdr(aws?|awing|ew|awn)\b[^.]{0,30}\b(actions?|copies|clicks)\b",
    'write "represent" or "mean"': r"\b(stands?|stood|standing) (for|in for)\b",
    'write "continue"': r"\b(goes|go|going|went|gone) on\b",
    'write "show" or "apply"': r"\bspeaks? (for|against|about|of)\b",
    'write "after"': r"\b(cuts?|steps?|comes?|begins?|stands?|numbers?) (\w+ )?behind\b",
    "split the relative clause": r"\b(of|for|by|to) (which|whom)\b",
    'write "because" or "due to"': r"\bowed to\b",
    'write "anyone who"': r"\b(whoever|whosoever)\b",
    "do not open with a noun clause": r"^(What|Where|Whatever|Wherever|Of(?! course))\b",
    "do not open with a that-clause": r"^That (an?|all|each|it|no|the|they|we|\w+s \w+ed)\b",
}
RULES = {rule: re.compile(pattern, re.IGNORECASE) for rule, pattern in RULES.items()}
OPENERS = [rule for rule in RULES if rule.startswith("do not open")]
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|vs|Eqs?|Sec|cf)\.(?=\s)")
WORD = re.compile(r"\W*([A-Za-z][A-Za-z0-9'’-]*|\d[\d.,:%]*)\W*")  # formulas are not counted
END = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9`\[{])|\n\n+")
HEADING = re.compile(r"^\s*(#|[-=~^*]{3,}\s*$)")
NUMPYDOC = re.compile(r"^(Parameters|Returns|Yields|Raises|Warns|Attributes|Notes|See Also)$")


def plain(text):
    """Return text with each inline code, formula or link as one word, and abbreviations joined."""
    text = re.sub(r"``.+?``|`[^`]+`", "Code", text)
    text = re.sub(r"\[(?:what|where|which)[^\]]*\]\([^)]*\)", "Title", text, flags=re.IGNORECASE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\w+\([^()]*[|=][^()]*\)", "Code", text)
    text = re.sub(r"\{[^{}]*\}", "value", text)
    return ABBREVIATION.sub(lambda match: match[0].replace(".", ""), text)


def findings(text):
    """Yield what is wrong with a paragraph, and where."""
    for sentence in END.split(plain(text)):
        sentence = " ".join(sentence.split())
        words = sum(map(bool, map(WORD.fullmatch, sentence.split())))
        if words > MOST_WORDS:
            yield f"{words} words", sentence
        for rule, pattern in RULES.items():
            if rule in OPENERS and not re.search(r"[.:][\W_]*$", sentence):
                continue  # a title or a question
            if found := pattern.search(sentence):
                yield f'{rule}, not "{found[0]}"', sentence


def paragraphs_of_markdown(text):
    """Yield the paragraphs, items and cells of a page with their lines."""
    text = re.sub(r"<!--.*?-->|^---\n.*?\n---$", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?```", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    start, block, table = 1, [], []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        item = re.match(r"\s*([-*]|\d+\.) ", line)
        code = re.match(r"    ", line) and not block and not item
        if block and (not line.strip() or item or HEADING.match(line) or line.startswith("|")):
            yield start, " ".join(block)
            block = []
        if table and not line.startswith("|"):
            if not any(re.search(r"\| *[-+]?\d+\.\d", row) for _, row in table):
                for row, cells in table:
                    yield from ((row, cell.strip()) for cell in cells.split("|"))
            table = []
        if line.startswith("|"):
            table.append((number, line.replace("\\|", "/")))
        elif line.strip() and not code and not HEADING.match(line):
            start = start if block else number
            block.append(line[item.end() :] if item else line)


def paragraphs_of_docstring(text, line):
    """Yield the paragraphs of a numpydoc docstring, without its examples and sources."""
    text = re.split(r"\n(?:References|Examples)\n-+", "\n".join(map(str.rstrip, text.split("\n"))))
    block, start, indent = [], line, 0
    for number, row in enumerate([*text[0].splitlines(), ""], line):
        depth = len(row) - len(row.lstrip())
        item = re.match(r"\s*([-*]|\d+\.) |  ([a-z-]+  +|fine-tune )(?=[a-z])", row)  # or a command
        typed = re.match(r"\s*\w[\w*, .]* : |\S+$", row)  # a parameter, or a name on its own
        if block and (not row.strip() or item or typed or (depth != indent and depth == 0)):
            yield start, " ".join(block)
            block = []
        if row.strip() and not (HEADING.match(row) or NUMPYDOC.match(row) or typed):
            is_formula = " ~ Bernoulli" in row
            if (
                not row.strip().startswith(("|", ">>>", "P(", "..", "implicitrm "))
                and not is_formula
            ):
                start, indent = (start, indent) if block else (number, depth)
                block.append(row[item.end() :] if item else row)


def text_of(node):
    """Return a string, with what an f-string inserts as one word."""
    if isinstance(node, ast.Constant):
        return node.value
    return "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)


def paragraphs_of_module(source):
    """Yield the paragraphs of the docstrings and messages of a module."""
    tree = ast.parse(source)
    done = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                value = node.body[0].value
                done.add(id(value))
                empty = len(value.value) - len(value.value.lstrip("\n"))  # lines before the text
                yield from paragraphs_of_docstring(text, value.lineno + empty)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            done |= {id(value) for value in node.values}
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        ):
            is_sql = text_of(node).lstrip().startswith("CREATE TABLE")
            if id(node) not in done and "\n    -----" in text_of(node):  # a part of a docstring
                yield from paragraphs_of_docstring(text_of(node), node.lineno)
            elif id(node) not in done and len(text_of(node).split()) > 3 and not is_sql:
                yield node.lineno, text_of(node)


def paragraphs_of_example(source):
    """Yield the paragraphs of an example: of its docstring, and below each `# %%`."""
    yield from paragraphs_of_module(source)
    start, block, inside = 1, [], False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        begins = line.startswith("# %%")
        inside = begins or (inside and line.startswith("#"))
        if inside and HEADING.match(line[2:]):
            block = []  # the title above the rule
        elif inside and line[2:].strip() and not begins:
            start = start if block else number
            block.append(line[2:])
        elif block:
            yield start, " ".join(block)
            block = []


def main(names):
    """Print the findings of files or folders, and return how many there are."""
    paths = [Path(name).resolve() for name in names] or [
        *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"),
        *(ROOT / "docs", ROOT / "docs/gallery", ROOT / "implicitrm_sk"),
    ]
    files = []
    for path in paths:
        inside = path.glob("*.md") if path.name == "docs" else path.rglob("*.py")
        files += sorted(inside) if path.is_dir() else [path]
    count = 0
    for path in files:
        split = paragraphs_of_module if path.suffix == ".py" else paragraphs_of_markdown
        if path.parent.name == "gallery":
            split = paragraphs_of_example
        for line, paragraph in split(path.read_text()):
            for problem, sentence in findings(paragraph):
                count += 1
                print(f"{path.relative_to(ROOT)}:{line}: {problem}: {sentence[:110]}")
    if count:
        print(f"{count} findings; the rules stand in CONTRIBUTING.md, section Documentation")
    return count


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
