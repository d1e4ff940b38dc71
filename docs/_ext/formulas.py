"""Typesets formulas, as MathML that a browser shows without a script and without a network.

Docstrings are read in a terminal first, so their formulas are plain text.  Here they are found.  What is
not clearly a formula as a whole stays as it is, and dollars around a formula leave no doubt.
"""

import re
from typing import Any

from _ext.latex import BOUNDS, CLOSE, GREEK, OPEN, TOKEN, closing, latex, symbol
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

LONG = 48
"""The characters of LaTeX that fit beside text on a phone."""

BREAKS = set("+-*/=<>~") | {"<=", ">=", "!=", "->", "<-"}
"""What stands between the parts of a formula, and is never its end."""
ENGLISH = set(
    """an and are as at be but by each for from if is it its no not of on or per so than that the then
    to with where which while""".split()  # noqa: SIM905
)
PREFIXES = {
    "mean",
    "sign",
    "sgn",
    "clip",
    "frac",
    "round",
    "median",
    "Var",
    "tanh",
    "sigmoid",
    "tr",
    "diag",
}
"""Functions whose names may be words, too: they count where something follows that they apply to."""
FACTORIES = {"top", "rand", "perm", "by"}
"""The beginnings of names in Python that look like a symbol with an index."""
PROTECTED = re.compile(
    r"``.+?``|\$[^$\s](?:[^$]*[^$\s])?\$|:[a-z:]+:`[^`]*`|`[^`]+`_*|^ *:[a-z]+[^:\n]*:(?= |$)"
    r"|(?<![\w)|])\*+[^*\s](?:[^*]*[^*\s])?\*+(?!\w)|\w+://\S+| --+ |^ *\.\. .*$|^ *[-*] +|\\.",
    re.DOTALL | re.MULTILINE,
)
"""What is not plain text: literals, roles, fields, emphasis, addresses, directives."""


def typeset(text: str) -> str:
    """The text, in reStructuredText, with its formulas as roles; examples and literals stay."""
    parts = text.split("\n\n")
    for i, part in enumerate(parts):
        literal = i and parts[i - 1].rstrip().endswith("::") and part.startswith(" ")
        if not (literal or part.lstrip().startswith((">>>", "===", "+--"))):  # Examples, tables.
            parts[i] = paragraph(part)
    return alike("\n\n".join(parts))


def alike(text: str) -> str:
    """The text with the letters of its formulas typeset like them wherever they stand alone."""
    formulas = re.findall(r":math:`([^`]*)`", text)
    letters = sorted({letter for formula in formulas for letter in symbols(formula)})
    by_itself = (
        rf"(?<![^\s(])(?<![=<>+*/-] )(?P<letter>{'|'.join(letters)})(?=[\s.,;:)]|$)(?!\s+[=<>+*/-])"
    )
    return re.sub(
        f"{PROTECTED.pattern}|{by_itself if letters else '(?!)(?P<letter>)'}",
        lambda match: role(match["letter"]) if match["letter"] else match[0],
        text,
        flags=PROTECTED.flags,
    )


def symbols(formula: str) -> set[str]:
    """The letters of a formula, Greek ones by name; those that are English words are left out."""
    names = re.sub(r"\\\w+\{\w*\}", "", formula)
    latin = {*re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", names)} - {"a", "A", "I"}
    return latin | ({*re.findall(r"\\(\w+)", formula)} & {*GREEK.split()})


def paragraph(text: str) -> str:
    """One paragraph with its formulas as roles, those between dollars and those that are plain."""
    result, at = "", 0
    for match in PROTECTED.finditer(text):
        kept = match[0] if match[0][0] != "$" else role(match[0][1:-1])
        result += plain(text[at : match.start()]) + kept
        at = match.end()
    return result + plain(text[at:])


def role(formula: str) -> str:
    """The role that typesets a formula."""
    return f":math:`{latex(formula).strip()}`"


def plain(text: str) -> str:
    """Text without markup, with its formulas as roles if there is no doubt where they begin and end."""
    tokens, result, at = TOKEN.findall(text), "", 0
    while at < len(tokens):
        end = formula_end(tokens, at)
        formula = "".join(tokens[at:end])
        good = end > at and telling(tokens[at:end]) and alone(tokens, at, end) and shows(formula)
        result += role(formula) if good else formula or tokens[at]
        at = max(end, at + 1)
    return result


def formula_end(tokens: list[str], start: int) -> int:
    """Where that ends which begins at a token and may be a formula, or ``start``."""
    at = end = start
    while at < len(tokens):
        if tokens[at].isspace() and end > start:
            at += 1
            continue
        after = group_end(tokens, at)
        if after == at and (operand(tokens, at) or tokens[at] in BREAKS | {"^", "_", "|", "||"}):
            after = at + 1
        if after == at:
            break
        at = end = after
    return end


def alone(tokens: list[str], start: int, end: int) -> bool:
    """Whether a formula is all of what it is a part of."""
    before, after = neighbour(tokens, start, -1), neighbour(tokens, end - 1, 1)
    if start and not (tokens[start - 1].isspace() or tokens[start - 1] in ("(", "[", '"')):
        return False
    if end < len(tokens) and not (tokens[end].isspace() or tokens[end] in '.,;:)]"?'):
        return False
    if tokens[start] == "-" and (before[-1:].isalnum() or before in (")", "]", "|", "||")):
        return False
    return before not in BREAKS and after not in BREAKS | {"||"}


def neighbour(tokens: list[str], at: int, step: int) -> str:
    """The token before or after another one, spaces apart."""
    at += step
    while 0 <= at < len(tokens) and tokens[at].isspace():
        at += step
    return tokens[at] if 0 <= at < len(tokens) else ""


def group_end(tokens: list[str], at: int) -> int:
    """Where brackets end that hold a formula and nothing else, or ``at``."""
    if tokens[at] == "<" and tokens[at + 1 : at + 2] != [" "] and ">" in tokens[at:]:
        close = tokens.index(">", at)
    elif tokens[at] in OPEN:
        close = closing(tokens, at, len(tokens))
    else:
        return at
    if close >= len(tokens) or close == at + 1:
        return at
    signs = BREAKS | {",", "|", "||", "^", "_", "...", *OPEN, *CLOSE}
    inside = range(at + 1, close)
    good = all(tokens[i].isspace() or tokens[i] in signs or operand(tokens, i) for i in inside)
    return close + 1 if good else at


def operand(tokens: list[str], at: int) -> bool:
    """Whether a token is part of a formula: a number, a symbol, or a name beside an operator."""
    token, before, after = tokens[at], neighbour(tokens, at, -1), neighbour(tokens, at, 1)
    if token[0].isdigit() or token in BOUNDS or token == "sqrt":
        return True
    if not token[0].isalpha() or token in ENGLISH - {"in"}:
        return False
    if token == "in":
        return after in ("R", "[", "{")
    if token in ("a", "A", "I") and after not in ("^", "_"):
        return bool({before, after} & (BREAKS - {"-"})) or (before == "-" and after in CLOSE)
    if token in PREFIXES:
        return after in ("(", "||", "|") or (symbol(after) and after not in ("a", "A", "I"))
    if symbol(token) or tokens[at - 1 : at] == ["_"]:
        return True
    if tokens[at + 1 : at + 2] == ["_"]:
        return token not in FACTORIES and symbol(after_index(tokens, at))
    if tokens[at - 1 : at] == ["("] and after == "-":
        return True
    if tokens[at - 1 : at] == ["-"]:
        return False  # A hyphen.
    spaced = [t for t in (before, after) if t in BREAKS] and " " in tokens[max(0, at - 1) : at + 2]
    return bool(spaced) and not {before, after} <= {"-", *ENGLISH}


def after_index(tokens: list[str], at: int) -> str:
    """The index of a name, if nothing is attached to it."""
    attached = tokens[at + 3 : at + 4]
    return tokens[at + 2] if at + 2 < len(tokens) and not "".join(attached).isalpha() else ""


def telling(tokens: list[str]) -> bool:
    """Whether tokens are more than a word or a number: an operator, and a letter that it is about."""
    letters = any(token[0].isalpha() for token in tokens)
    paired = tokens.count("|") % 2 == 0 and tokens.count("||") % 2 == 0
    star = tokens[-1] == "*" and tokens[-2:-1] != [" "]
    whole = tokens[0] not in (BREAKS - {"-", "<"}) | {"^", "_"}
    whole &= star or tokens[-1] not in (BREAKS - {">"}) | {"^", "_"}
    signs = {"^", "_", "||", "|", *BREAKS} & {*tokens}
    return bool(letters and paired and whole and signs and len(tokens) > 2)


def shows(formula: str) -> bool:
    """Whether a formula in plain text can be typeset."""
    try:
        tex2mathml(latex(formula))
    except MathError:
        return False
    return True


def known(formula: str) -> str:
    r"""A formula as docutils reads it: ``\frac12`` in braces; it sizes brackets and dots by itself."""
    formula = re.sub(r"(\\[td]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", formula)
    return re.sub(r"\\[bB]igg?[lr]?(?![A-Za-z])", "", formula.replace("\\dots", "\\ldots"))


def render(block: bool) -> Any:
    """What writes a formula into a page."""

    def visit(self: Any, node: nodes.Element) -> None:
        try:
            formula = known(node.astext())
            mathml = tex2mathml(formula, as_block=block)
        except MathError as error:
            logger.warning("the formula %r: %s", node.astext(), error, location=node)
            raise nodes.SkipNode from error
        # A long formula has a line of its own where lines are short.
        kind = "div" if block else "span"
        extent = " long" if len(formula) > LONG else ""
        self.body.append(f'<{kind} class="math{extent}">{mathml}</{kind}>')
        raise nodes.SkipNode

    return visit, None


def setup(app: Any) -> dict[str, bool]:
    """Adds the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", render(block=False), render(block=True))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
