r"""Translates formulas in plain text, as one writes them in a terminal, to LaTeX.

``E||x||^2 <= omega`` becomes ``\mathbb{E}\|x\|^{2} \le \omega``.  Names of several letters are
upright, Greek ones are Greek, and what follows ``^`` or ``_`` may be in brackets.  A formula with a
backslash is LaTeX already.
"""

import re

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
FUNCTIONS = "log ln exp min max sup arg det dim sin cos"
WORDS = {word: f"\\{word} " for word in f"{GREEK} {FUNCTIONS} sum prod in".split()} | {
    "inf": "\\infty ",
    "grad": "\\nabla ",
    "lam": "\\lambda ",
}
BLACKBOARD = {"E": ("[", "|", "||"), "R": ("^",)}
"""An expectation and the reals are told from other letters by what follows."""

SIGNS = {
    "||": "\\|",
    "<=": "\\le ",
    ">=": "\\ge ",
    "!=": "\\ne ",
    "->": "\\to ",
    "<-": "\\leftarrow ",
    "...": "\\ldots ",
    "*": "\\cdot ",
    "~": "\\sim ",
    "{": "\\{",
    "}": "\\}",
    "<": "\\langle ",
    ">": "\\rangle ",
    "%": "\\%",
    "&": "\\&",
    "#": "\\#",
}
OPEN, CLOSE = "([{", ")]}"
BOUNDS = {"floor": ("\\lfloor ", "\\rfloor "), "ceil": ("\\lceil ", "\\rceil ")}

TOKEN = re.compile(r"\s+|\d+(?:\.\d+)?(?:e-?\d+)?|[A-Za-z]+'*|\|\||[<>!]=|->|<-|\.\.\.|.")


def latex(formula: str) -> str:
    r"""A formula in plain text as LaTeX: ``sqrt(d / 2^(bits-1))`` is ``\sqrt{d / 2^{bits-1}}``."""
    if "\\" in formula:
        return formula
    tokens = TOKEN.findall(" ".join(formula.split()))
    return sequence(tokens, 0, len(tokens))


def sequence(tokens: list[str], at: int, end: int) -> str:
    """The tokens from ``at`` to ``end``, one atom after another."""
    parts = []
    while at < end:
        part, at = atom(tokens, at, end)
        parts.append(part)
    return "".join(parts)


def atom(tokens: list[str], at: int, end: int) -> tuple[str, int]:
    """The LaTeX of what begins at a token, and where the next begins."""
    token, after = tokens[at], at + 1
    if token in ("^", "_"):
        inside, after = script(tokens, after, end)
        return f"{token}{{{inside}}}", after
    if tokens[after : after + 1] == ["("] and token in {"sqrt", *BOUNDS}:
        close = closing(tokens, after, end)
        inside = sequence(tokens, after + 1, close)
        left, right = ("\\sqrt{", "}") if token == "sqrt" else BOUNDS[token]
        return f"{left}{inside}{right}", close + 1
    before = tokens[at - 1] if at else " "
    following = tokens[after] if after < end else " "
    if token == " ":
        return (
            "\\ " if (roman(before) and following.isalnum()) or roman(following) else " "
        ), after
    if token == "*" and before != " ":
        return "^{*}", after
    if (token == "<" and following == " ") or (token == ">" and before == " "):
        return token, after  # A comparison; the brackets of an inner product touch what is in them.
    if token in BLACKBOARD:
        operand = next((t for t in tokens[after:end] if t != " "), "")
        return (f"\\mathbb{{{token}}}" if operand in BLACKBOARD[token] else token), after
    if symbol(token) and following.isdigit():
        return f"{WORDS.get(token, token)}_{{{following}}}", after + 1
    if token in WORDS:
        return WORDS[token], after
    if token in SIGNS:
        return SIGNS[token], after
    if roman(token):
        return f"\\mathrm{{{token}}}", after
    return token, after


def roman(token: str) -> bool:
    """Whether a token is a name of several letters, which is set upright."""
    return token[0].isalpha() and len(token.rstrip("'")) > 1 and token not in WORDS


def symbol(token: str) -> bool:
    """Whether a token is a letter, or the name of one or of a function."""
    return token[:1].isalpha() and not roman(token)


def script(tokens: list[str], at: int, end: int) -> tuple[str, int]:
    """An exponent or index: what is in brackets, or one atom with its sign."""
    if at >= end:
        return "", at
    if tokens[at] in "({":
        close = closing(tokens, at, end)
        return sequence(tokens, at + 1, close), close + 1
    if tokens[at] == "-" and at + 1 < end:
        inside, after = atom(tokens, at + 1, end)
        return f"-{inside}", after
    if len(tokens[at]) == 2 and tokens[at].isalpha() and tokens[at] not in WORDS:
        return tokens[at], at + 1  # Two indices.
    return atom(tokens, at, end)


def closing(tokens: list[str], at: int, end: int) -> int:
    """Where the bracket that opens at ``at`` closes, or the end."""
    depth = 0
    for i in range(at, end):
        depth += (tokens[i] in OPEN) - (tokens[i] in CLOSE)
        if depth == 0:
            return i
    return end
