"""Pairs of numbers, quantities and expressions made to deceive the checker: answer, target, and
whether they are equal, known by how they are made. What is not equal is one digit, sign or unit
away from what is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

Pair = tuple[str, str, bool]  #: answer, target, and whether they are equal
Generator = Callable[[random.Random], Pair]
_WORDS = ("eggs", "apples", "students", "pages", "tickets")
_SCRIPTS = ("０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")


def whole(rng: random.Random, most: int = 10**4) -> int:
    """A whole number that is not 0, small ones oftener."""
    return rng.randrange(1, rng.choice((10, 100, most)))


def off(rng: random.Random, number: int) -> int:
    """Another whole number: near, mirrored, ten times as large, or negative."""
    others = (number + 1, number - 1, number * 10, -number, int(str(abs(number))[::-1]) + 7)
    return rng.choice([other for other in others if other != number])


def either(rng: random.Random, number: int) -> tuple[int, bool]:
    """A number itself, or another one."""
    equal = rng.random() < 0.5
    return (number if equal else off(rng, number)), equal


def tex(number: Fraction) -> str:
    """A fraction in LaTeX."""
    sign = "-" if number < 0 else ""
    return rf"{sign}\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"


def fraction(rng: random.Random) -> Fraction:
    return Fraction(whole(rng, 500) * rng.choice((1, -1)), rng.randrange(2, 40))


# -- numbers


def scripts(rng: random.Random) -> Pair:
    """Digits of other scripts."""
    number = whole(rng)
    other, equal = either(rng, number)
    digits = str.maketrans("0123456789", rng.choice(_SCRIPTS))
    return str(other).translate(digits), str(number), equal


def separators(rng: random.Random) -> Pair:
    """Thousands with commas, LaTeX's spaces, and in the wrong places."""
    number = rng.randrange(10**3, 10**9)
    other, equal = either(rng, number)
    mark = rng.choice((",", "{,}", r"\,", r",\!", r",\! "))
    return f"{other:,}".replace(",", mark), str(number), equal


def decimals(rng: random.Random) -> Pair:
    """Decimals with idle zeros against fractions."""
    number = Fraction(rng.randrange(-9999, 9999), 10 ** rng.randrange(1, 4))
    other = number if (equal := rng.random() < 0.5) else number + Fraction(1, 10**4)
    text = f"{float(other):.4f}" + "0" * rng.randrange(3)
    return text, rng.choice((tex(number), str(number))), equal


def repeating(rng: random.Random) -> Pair:
    """Repeating decimals against fractions, and what their digits say when they do not repeat."""
    start = f"{rng.randrange(10)}.{''.join(rng.choices('0123456789', k=rng.randrange(3)))}"
    period = "".join(rng.choices("0123456789", k=rng.randrange(1, 4)))
    after = len(start.partition(".")[2])
    tail = Fraction(int(period), 10**after * (10 ** len(period) - 1))
    number = Fraction(start + "0") + tail
    plain = Fraction(start + period)
    text = rf"{start}\overline{{{period}}}"
    if rng.random() < 0.5:
        return text, tex(number), True
    return rng.choice(((text, tex(plain)), (start + period, tex(number)))) + (plain == number,)


def mixed(rng: random.Random) -> Pair:
    """Mixed numbers, and the same digits without the space."""
    bottom = rng.randrange(2, 20)
    top = rng.randrange(1, bottom)
    before = rng.randrange(1, 30)
    number = before + Fraction(top, bottom)
    text = rng.choice((f"{before} {top}/{bottom}", rf"{before}\frac{{{top}}}{{{bottom}}}"))
    if rng.random() < 0.5:
        return text, str(number), True
    glued = Fraction(int(f"{before}{top}"), bottom)
    wrong = rng.choice((glued, before * Fraction(top, bottom), number + 1))
    return text, str(wrong), wrong == number


def percents(rng: random.Random) -> Pair:
    """Percents against fractions of 1, not ten times or a tenth of them."""
    number = Fraction(rng.randrange(1, 1000), 10)
    shift = rng.choice((1, 1, 10, Fraction(1, 10)))
    return f"{float(number)}\\%", tex(number / 100 * shift), shift == 1


def powers_of_ten(rng: random.Random) -> Pair:
    """Numbers in scientific notation."""
    digits = rng.randrange(11, 99)
    power = rng.randrange(-5, 8)
    other = power + rng.choice((0, 0, 1, -1))
    head = f"{digits / 10}"
    forms = (rf"{head} \times 10^{{{other}}}", f"{head}e{other}", f"{head}*10**{other}")
    number = Fraction(digits, 10) * Fraction(10) ** power
    return rng.choice(forms), str(number), other == power


def roundings(rng: random.Random) -> Pair:
    """Exact answers against targets rounded to few digits, to many, and beside them."""
    number = Fraction(rng.randrange(1, 500), rng.choice((3, 7, 9, 11, 13)))
    places = rng.randrange(1, 12)
    rounded = Fraction(round(number * 10**places), 10**places)
    shift = rng.choice((0, 0, 0, 3, -4))
    target = f"{round(number * 10**places) + shift:0{places + 1}d}"
    target = f"{target[:-places]}.{target[-places:]}"
    digits = len(target.replace(".", "").lstrip("0"))
    equal = shift == 0 and (digits >= 7 or rounded == number)
    return rng.choice((tex(number), str(number))), target, equal


def bases(rng: random.Random) -> Pair:
    """Whole numbers in two bases, and the same digits in another one."""
    number = rng.randrange(2, 500)
    if rng.random() < 0.5:
        return f"{number:b}_2", rf"{number:o}_{{8}}", True
    return f"{number:b}_2", f"{number:b}_{{10}}", False


# -- quantities


def units(rng: random.Random) -> Pair:
    """Lengths, times and masses in other units, by the right factor or another."""
    small, large, factor = rng.choice(
        (("cm", "m", 100), ("mm", "cm", 10), ("m", "km", 1000), ("minutes", "hours", 60),
         ("g", "kg", 1000), ("inches", "feet", 12), ("mL", "L", 1000), ("cents", "dollars", 100))
    )  # fmt: skip
    number = whole(rng, 500)
    used = rng.choice((factor, factor, factor * 10, factor + 1))
    glue = rng.choice((" ", " ", r"\,", r"\ "))
    return f"{number * used}{glue}{small}", f"{number} {large}", used == factor


def powers_of_units(rng: random.Random) -> Pair:
    """Areas and volumes, glued or not, of the same unit or of another power."""
    number = whole(rng)
    unit = rng.choice(("cm", "m", "km", "ft"))
    power = rng.choice((2, 3))
    other = rng.choice((power, power, 5 - power))
    sign = {2: "²", 3: "³"}
    text = rng.choice((f"{number}{unit}{sign[power]}", rf"{number}\text{{ {unit}}}^{power}"))
    return text, f"{number} {'square' if other == 2 else 'cubic'} {unit}", other == power


def compounds(rng: random.Random) -> Pair:
    """Hours and minutes, feet and inches, dollars and cents, weeks and days."""
    large, small, factor = rng.choice(
        (("hour", "minute", 60), ("minute", "second", 60), ("week", "day", 7),
         ("year", "month", 12), ("dollar", "cent", 100))
    )  # fmt: skip
    many = rng.randrange(2, 12)
    rest = rng.randrange(2, factor)
    text = f"{many} {large}s{rng.choice((' and ', ' ', ', '))}{rest} {small}s"
    total = many * factor + rest
    other, equal = either(rng, total)
    return text, f"{other} {small}s", equal


def scales(rng: random.Random) -> Pair:
    """Millions and dozens worked out, and with a zero too much."""
    word, size = rng.choice((("thousand", 1000), ("million", 10**6), ("dozen", 12)))
    number = whole(rng, 300)
    other, equal = either(rng, number * size)
    return f"{number} {word}", rng.choice((str(other), f"{other:,}")), equal


def unit_or_letter(rng: random.Random) -> Pair:
    """A letter that is no unit hangs on the number."""
    number = whole(rng)
    return f"{number}{rng.choice('abcdfjknpqruvwxyzKMBN')}", str(number), False


def counted(rng: random.Random) -> Pair:
    """What is counted, and words that change the number."""
    number = whole(rng)
    if rng.random() < 0.5:
        return f"{number} {rng.choice(_WORDS)}", str(number), True
    change = rng.choice(("tenths", "squared", "times", "or more", "percent of 10", "pairs", "less"))
    return f"{number} {change}", str(number), False


# -- algebra


def roots(rng: random.Random) -> Pair:
    r"""a \sqrt{b} as one root, and beside it."""
    a = rng.randrange(2, 15)
    b = rng.choice((2, 3, 5, 6, 7, 10, 11))
    under, equal = either(rng, a * a * b)
    return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{max(under, 0)}}}", equal


def nested_roots(rng: random.Random) -> Pair:
    r"""(\sqrt{a} + \sqrt{b})^2 under a root, exact or nearly so."""
    a = rng.randrange(2, 30)
    b = rng.randrange(2, 30)
    near = rng.choice(("", "", rf"+10^{{-{rng.randrange(10, 60)}}}"))
    text = rf"\sqrt{{{a + b}+2\sqrt{{{a * b}}}}}{near}"
    return text, rf"\sqrt{{{a}}}+\sqrt{{{b}}}", not near


def polynomials(rng: random.Random) -> Pair:
    """Products against what they are multiplied out."""
    a = rng.randrange(1, 12)
    b = rng.randrange(1, 12)
    middle, equal = either(rng, a + b)
    last = a * b + (rng.choice((0, 0, 1)))
    letter = rng.choice("xyzt")
    text = f"({letter}+{a})({letter}+{b})"
    target = f"{letter}^2+{middle}{letter}+{last}".replace("+-", "-")
    return text, target, equal and last == a * b


def fractions_with_letters(rng: random.Random) -> Pair:
    """Sums of fractions over one denominator, and with the sum taken of both."""
    a = rng.randrange(1, 9)
    b = rng.randrange(2, 9)
    text = rf"\frac{{x}}{{{b}}}+\frac{{{a}}}{{{b}}}"
    if rng.random() < 0.5:
        return text, rf"\frac{{x+{a}}}{{{b}}}", True
    return text, rf"\frac{{x+{a}}}{{{2 * b}}}", False


def complex_products(rng: random.Random) -> Pair:
    """Products of complex numbers, and their conjugates."""
    a, b = rng.randrange(1, 9), rng.randrange(1, 9)
    c, d = rng.randrange(1, 9), rng.randrange(1, 9)
    real = a * c - b * d
    imaginary = a * d + b * c
    sign = rng.choice(("+", "-"))
    return f"({a}+{b}i)({c}+{d}i)", f"{real}{sign}{imaginary}i", sign == "+"


def functions(rng: random.Random) -> Pair:
    """Functions of slightly different arguments."""
    name = rng.choice(("sin", "cos", "tan", "ln", "exp"))
    a = rng.randrange(2, 30)
    equal = rng.random() < 0.5
    return rf"1+\{name}({a}x)", rf"\{name}({a if equal else a + 1}x)+1", equal


def towers(rng: random.Random) -> Pair:
    """Numbers too large to be worked out, one digit apart or the same."""
    a = rng.randrange(2, 10)
    n = rng.randrange(90, 10**6)
    kind = rng.randrange(4)
    if kind == 0:
        return f"{a}^{{{n}}}", f"{a}^{{{n + 1}}}", False
    if kind == 1:
        return f"{n}!", f"{n + 1}!", False
    if kind == 2:
        return f"{a}^{{{a}^{{{n}}}}}", str(n), False
    return f"{a}^{{{n}}}+1", f"{a}^{{{n}}}", False


NUMBERS: tuple[Generator, ...] = (
    scripts,
    separators,
    decimals,
    repeating,
    mixed,
    percents,
    powers_of_ten,
    roundings,
    bases,
    units,
    powers_of_units,
    compounds,
    scales,
    unit_or_letter,
    counted,
    roots,
    nested_roots,
    polynomials,
    fractions_with_letters,
    complex_products,
    functions,
    towers,
)
