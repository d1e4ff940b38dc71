"""What the documentation's extensions make of docstrings."""

import importlib
import re
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

pytest.importorskip("sphinx")


@pytest.fixture(scope="module")
def extension():
    """The module of an extension, by name."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
    yield lambda name: importlib.import_module(f"_ext.{name}")
    sys.path.pop(0)


def entry(public, obj, docstring, what="function"):
    """The lines of an entry, and what is wrong with them."""
    from sphinx.ext.napoleon import Config, GoogleDocstring

    lines = docstring.split("\n")
    public.before_napoleon(None, what, "x", obj, None, lines)
    config = Config(
        napoleon_custom_sections=["Guarantees", "Bits", ("Attributes", "params_style")],
        napoleon_use_ivar=False,
    )
    lines = str(GoogleDocstring(lines, config, what=what, name="x", obj=obj)).split("\n")
    return lines, public.garbled(obj, lines)


def function(a, b=0): ...


@pytest.mark.parametrize("first", ["A codec: it rounds.", "A codec, see: below", "x: y: z"])
def test_a_colon_in_returns_is_no_type(extension, first):
    parts = [
        "Does.",
        "Args:\n    a: it.",
        f"Returns:\n    {first}\n    More.",
        "Raises:\n    E: no.",
    ]
    lines, wrong = entry(extension("public"), function, "\n\n".join(parts))
    assert wrong == []
    assert f":returns: {first}" in lines
    assert ":raises E: no." in lines


def test_a_colon_in_a_property_is_no_type(extension):
    lines, wrong = entry(extension("public"), property(function), "So many: bits.", what="property")
    assert wrong == []
    assert not any(line.startswith(":type") for line in lines)


@pytest.mark.parametrize(
    "docstring",
    [
        "Does.\n\nArgs:\n    c: not a parameter.",
        "Does.\n\nArgs:\n    a: it.\n    goes on: without an indent.",
        "Does.\n\nArgs:\n    a (a number): it.",
        "Does.\n\nBit:\n    32 per leaf.",
    ],
)
def test_garbled_docstrings_are_found(extension, docstring):
    assert entry(extension("public"), function, docstring)[1]


@pytest.mark.parametrize("section", ["Guarantees", "Bits"])
def test_sections_of_ours(extension, section):
    public = extension("public")
    for docstring in (f"Does.\n\n{section}: this.", f"Does.\n\n{section}:\n    this."):
        lines, wrong = entry(public, function, docstring)
        assert wrong == []
        assert lines[2] == f".. rubric:: {section}"
        assert "this." in lines


def test_fields_are_described_by_their_protocols_once(extension):
    class Call(Protocol):
        def __call__(self, key, message):
            """Sends it."""

    class Codec(NamedTuple):
        encode: Call

    Codec.__annotations__["encode"] = Call
    public = extension("public")
    lines, _ = entry(public, Codec, "A codec.", what="class")
    assert sum("Sends it." in line for line in lines) == 1
    described = "A codec.\n\nAttributes:\n    encode: (key, message) -> payload.  Sends it."
    lines, _ = entry(public, Codec, described, what="class")
    assert sum("Sends it." in line for line in lines) == 1


def test_a_name_is_in_one_group(extension):
    public = extension("public")
    content = ["Signs: one bit.", "   sign", "   majority", "", "Others:", "   sign gone"]
    groups = public.groups_of(content)
    assert groups[0] == ("Signs", "One bit.", ["sign", "majority"])
    assert public.complaints("p", ["sign", "majority", "new"], groups) == [
        "p.new is public and in no group",
        "p.gone is not public",
        "p.sign is in two groups",
    ]


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        (
            "E||C(x) - x||^2 <= (1 - delta) ||x||^2",
            r"\mathbb{E}\|C(x)-x\|^{2}\le(1-\delta)\|x\|^{2}",
        ),
        ("2^(bits-1)", r"2^{\mathrm{bits}-1}"),
        ("sqrt(4 (d - 2) / L^2)", r"\sqrt{4(d-2)/L^{2}}"),
        ("k = ceil(ratio d)", r"k=\ \lceil\mathrm{ratio}\ d\rceil"),
        ("<x, C(x)> < E", r"\langlex,C(x)\rangle<E"),
        ("w_(t+1) <- w_t + eta v_t", r"w_{t+1}\leftarroww_{t}+\etav_{t}"),
        ("x* in R^d", r"x^{*}\in\mathbb{R}^{d}"),
        ("C^-1 * x_i^2", r"C^{-1}\cdotx_{i}^{2}"),
        (r"\frac{a}{b}", r"\frac{a}{b}"),
    ],
)
def test_plain_formulas_as_latex(extension, plain, latex):
    from docutils.utils.math.latex2mathml import tex2mathml

    written = extension("formulas").latex(plain)
    assert written.replace("\\ ", "\0").replace(" ", "").replace("\0", "\\ ") == latex
    assert "<math" in tex2mathml(written)


def test_latex_that_docutils_reads_otherwise(extension):
    known = extension("formulas").known
    assert known(r"\tfrac12\Big(x_1, \dots\Big)") == r"\tfrac{1}{2}(x_1, \ldots)"
    assert known(r"\bigcup \frac{1}{2} \frac1n") == r"\bigcup \frac{1}{2} \frac1n"


def test_formulas_in_examples_and_literals_stay(extension):
    typeset = extension("formulas").typeset
    assert (
        typeset("so $x^2$ and\n``x^2`` or ``$y$``.") == "so :math:`x^{2}` and\n``x^2`` or ``$y$``."
    )
    assert (
        typeset(">>> on('$x$')\n'x^2'\n\nso\n$x\n+ y$")
        == ">>> on('$x$')\n'x^2'\n\nso\n:math:`x + y`"
    )
    displayed = ".. math::\n\n    x^2 <= y"
    assert typeset(displayed) == displayed


@pytest.mark.parametrize(
    "text",
    [
        "so :math:`x_{i}` is :math:`\\|x\\|^{2}`",
        "a label-wise and 8-bit code, 1e-3 or 1/2 of it, of k-ary trees - or not.",
        "Use rand_k or learning_rate, and *Title = x^2*, see https://a.b/x_1^2.",
        "where decode(payload) + e_new = x + beta e_old holds",
        ":param x: a name.",
        "* **step_size** -- step size, ``1/L``",
    ],
)
def test_text_that_is_no_formula_stays(extension, text):
    assert extension("formulas").typeset(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so ||x||^2 <= d, always", "so [||x||^2 <= d], always"),
        ("- |error_i| <= s / 2 and s > 0.", "- [|error_i| <= s / 2] and [s > 0]."),
        (
            "Keeps k = ceil(ratio * d) of d coordinates.",
            "Keeps [k = ceil(ratio * d)] of [d] coordinates.",
        ),
        (
            "f - f* + mean ||h_i||^2, with h_i a memory",
            "[f - f* + mean ||h_i||^2], with [h_i] a memory",
        ),
        (":param p: in (0, 1], for 1/p - 1 a p", ":param p: in (0, 1], for [1/p - 1] a [p]"),
    ],
)
def test_plain_formulas_are_found_whole(extension, text, expected):
    formulas = extension("formulas")
    roles = re.sub(r"\[(.*?)\]", lambda m: formulas.role(m[1]), expected.replace("1],", "1;,"))
    assert formulas.typeset(text) == roles.replace("1;,", "1],")
