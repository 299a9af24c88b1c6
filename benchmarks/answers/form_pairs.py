"""Pairs of lists, sets, intervals, names and whole texts made to deceive the checker: answer,
target, and whether they are equal, known by how they are made. What is not equal is one bracket,
order, sign or word away from what is.
"""

from __future__ import annotations

import random

from benchmarks.answers.number_pairs import Generator, Pair, either, off, whole

# -- lists, sets, matrices, intervals


def tuples(rng: random.Random) -> Pair:
    """Tuples in their order and out of it."""
    members = rng.sample(range(-9, 20), rng.randrange(2, 5))
    other = list(members)
    if not (equal := rng.random() < 0.5):
        other[0], other[-1] = other[-1], other[0]
    space = rng.choice((",", ", ", r",\ "))
    return f"({space.join(map(str, other))})", f"({','.join(map(str, members))})", equal


def sets(rng: random.Random) -> Pair:
    """Sets in any order, with a member changed or left out."""
    members = rng.sample(range(-9, 20), rng.randrange(2, 6))
    other = rng.sample(members, len(members))
    kind = rng.randrange(4)
    if kind == 0:
        other[0] = 50
    elif kind == 1:
        other.pop()
    braces = rng.choice((r"\{{{}\}}", r"\left\{{{}\right\}}", r"\lbrace {} \rbrace"))
    text = braces.format(", ".join(map(str, other)))
    return text, rf"\{{{','.join(map(str, members))}\}}", kind > 1


def enumerations(rng: random.Random) -> Pair:
    """Enumerations with commas, "and" and "or"; one member more, less or other."""
    members = rng.sample(range(1, 90), rng.randrange(2, 5))
    other = list(members)
    kind = rng.randrange(5)
    if kind == 0:
        other[rng.randrange(len(other))] += 100
    elif kind == 1:
        other.append(99)
    elif kind == 2:
        other.pop()
    *head, last = map(str, other)
    joint = rng.choice((", ", " and ", " or "))
    text = joint.join(filter(None, (", ".join(head), last)))
    return text, ", ".join(map(str, members)), kind > 2


def intervals(rng: random.Random) -> Pair:
    """Intervals as inequalities, with an end open or closed."""
    low = rng.randrange(-20, 20)
    high = low + rng.randrange(1, 20)
    left, right = rng.choice("(["), rng.choice(")]")
    other = rng.choice((left, left, "([".replace(left, "")))
    less = {"(": "<", "[": r"\le", ")": "<", "]": r"\leq"}
    text = f"{low} {less[other]} x {less[right]} {high}"
    return text, f"{left}{low},{high}{right}", other == left


def rays(rng: random.Random) -> Pair:
    """Rays and their unions in all writings of infinity."""
    a = rng.randrange(-20, 20)
    b = a + rng.randrange(1, 20)
    end, equal = either(rng, b)
    infinity = rng.choice((r"\infty", "inf", "infinity", "∞", r"+\infty"))
    minus = rng.choice((r"-\infty", "-inf", "-oo", "-∞"))
    cup = rng.choice((r"\cup", " U ", "∪"))
    text = f"({minus}, {a}){cup}({end}, {infinity})"
    target = rng.choice((rf"(-\infty,{a})\cup({b},\infty)", rf"x<{a} \text{{ or }} x>{b}"))
    return text, target, equal and end >= a


def builders(rng: random.Random) -> Pair:
    """Sets of all numbers with a property."""
    a = rng.randrange(-20, 20)
    sign, bracket = rng.choice(((">", "("), (r"\ge", "["), (r"\geq", "[")))
    used, equal = either(rng, a)
    domain = rng.choice(("x", r"x \in \mathbb{R}"))
    text = rf"\{{{domain} {rng.choice(('|', ':', chr(92) + 'mid'))} x {sign} {used}\}}"
    return text, rf"{bracket}{a},\infty)", equal


def matrices(rng: random.Random) -> Pair:
    """Matrices in all notations, transposed or with one cell changed."""
    cells = rng.sample(range(-9, 20), 4)
    other = list(cells)
    kind = rng.randrange(4)
    if kind == 0:
        other[1], other[2] = other[2], other[1]
    elif kind == 1:
        other[3] += 1
    forms = (
        r"\begin{{bmatrix}}{}&{}\\{}&{}\end{{bmatrix}}",
        r"\left(\begin{{array}}{{cc}}{} & {} \\ {} & {}\end{{array}}\right)",
        r"A = \begin{{pmatrix}}{}&{}\\{}&{}\\\end{{pmatrix}}",
        "[[{},{}],[{},{}]]",
    )
    first = rf"\begin{{pmatrix}}{cells[0]}&{cells[1]}\\{cells[2]}&{cells[3]}\end{{pmatrix}}"
    return rng.choice(forms).format(*other), first, kind > 1


def vectors(rng: random.Random) -> Pair:
    """Columns, rows, tuples and angle brackets."""
    a, b = rng.sample(range(-9, 20), 2)
    equal = rng.random() < 0.5
    first, second = (a, b) if equal else (b, a)
    forms = (
        f"({first},{second})",
        rf"\langle {first}, {second} \rangle",
        rf"\begin{{bmatrix}}{first}\\{second}\end{{bmatrix}}",
    )
    return rng.choice(forms), rf"\begin{{pmatrix}}{a}\\{b}\end{{pmatrix}}", equal


# -- names, chains, words, marks


def named_values(rng: random.Random) -> Pair:
    """Values by their names in any order, and exchanged."""
    a, b = rng.sample(range(1, 90), 2)
    equal = rng.random() < 0.5
    first, second = (a, b) if equal else (b, a)
    forms = (f"y={second}, x={first}", f"x={first} and y={second}", f"(x,y)=({first},{second})")
    return rng.choice(forms), f"x={a}, y={b}", equal


def chains(rng: random.Random) -> Pair:
    """Chains of equals that hold, and such as do not."""
    a, b = whole(rng), whole(rng)
    total, holds = either(rng, a + b)
    name = rng.choice(("", "x = ", "AB = ", "S_n = ", r"\text{Area} = "))
    text = f"{name}{a} + {b} = {total}"
    return text, str(rng.choice((total, a + b))), holds


def equations(rng: random.Random) -> Pair:
    """Lines times a number, and with a sign changed."""
    a = whole(rng, 20)
    b = whole(rng, 20)
    c = whole(rng, 20)
    by = rng.randrange(2, 6)
    last, equal = either(rng, by * c)
    return f"{by * a}x+{by * b}y={last}", f"{a}x+{b}y={c}", equal


def unsolved(rng: random.Random) -> Pair:
    """Equations whose right side is the target, but not their solution; and lines whose right side
    is the answer.
    """
    a = whole(rng, 20)
    if rng.random() < 0.3:
        return "5", rng.choice((f"x+{a}y=5", "x+y=5", "xy=5", "y-x=5", "x^2+y^2=5")), False
    text = rng.choice((f"x+{a}=5", f"{a + 1}x=5", "x^2=5", f"y={a}x+5", "x<5", r"x \ne 5"))
    return text, "5", False


def choices(rng: random.Random) -> Pair:
    """A letter with what it says, with another letter, or taken back."""
    mine, other = rng.sample("ABCDE", 2)
    says = rng.choice(("A longer path", "a red one", "12 cm", "the sum", "An angle"))
    frame = rng.choice(("({}) {}", "{}. {}", "{}: {}", r"\boxed{{\text{{({}) {}}}}}"))
    kind = rng.randrange(4)
    if kind == 0:
        return frame.format(mine, says), other, False
    if kind == 1:
        return frame.format(other, f"not {mine}"), mine, False
    if kind == 2:
        return f"{mine} or {other}", mine, False
    return frame.format(mine, says), mine, True


def remarks(rng: random.Random) -> Pair:
    """A remark in brackets that says the same, or that is another number."""
    a, b = whole(rng, 90), whole(rng, 90)
    if rng.random() < 0.5:
        return f"{a + b} ({a} + {b})", str(a + b), True
    return f"{a + b} ({a} + {b})", rng.choice((str(a + b + 1), str(a + b + 2))), False


def marks(rng: random.Random) -> Pair:
    """The right answer in a text: at its mark, or only in thoughts, before, or taken back."""
    number = whole(rng)
    other = off(rng, number)
    right = (
        f"<think>{other}?</think> <answer>{number}</answer>",
        f"It is {other} first. The answer is {number}.",
        f"The answer is {number}, so there are {number} of them.",
        f"Final Answer: The final answer is ${number}$. I hope it is correct.",
        f'{{"work": "{other}", "answer": {number}}}',
        f"### Answer\n\n{number}",
        rf"\boxed {number}",
        f"#### {number}",
    )
    wrong = (
        f"<think>{number}</think> <answer>{other}</answer>",
        f"The answer is {number}.\nNo: the answer is {other}.",
        rf"\boxed{{{number}}} or \boxed{{{other}}}",
        f"The answer is {number}. No, it is {other}.",
        f"The answer is {number} or {other}.",
        f"The answer is not {number}.",
        rf"<think> \boxed{{{number}}}",
        f"<answer>{number}",
        f"#### {number}\n#### {other}",
    )
    if rng.random() < 0.5:
        return rng.choice(right), str(number), True
    return rng.choice(wrong), str(number), False


def endless(rng: random.Random) -> Pair:
    """Texts made to last: deep brackets, long lists, repeated commands."""
    n = rng.randrange(50, 3_000)
    piece = rng.choice(
        ("(", "{", r"\frac{", r"\sqrt{", "1,", "x^", "9^", "-", "|", r"\{", "((1),", "(x+1)", "x+",
         r"\text{", "1 and ", "x=", r"1\cup ", r"\pm 1", r"\begin{pmatrix}", "&", r"\\", "7!", "°")
    )  # fmt: skip
    return (
        piece * n + rng.choice(("", "1", ")", "}")),
        rng.choice(("8", "x", "(8,9)", "x<8")),
        False,
    )


FORMS: tuple[Generator, ...] = (
    tuples,
    sets,
    enumerations,
    intervals,
    rays,
    builders,
    matrices,
    vectors,
    named_values,
    chains,
    equations,
    unsolved,
    choices,
    remarks,
    marks,
    endless,
)
