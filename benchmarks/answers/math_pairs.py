r"""Answers as competition mathematics has them, each in two writings: our own list, in the
manner of MATH (Hendrycks et al. 2021).
"""

from __future__ import annotations

TWICE = r"""
42 ~ 42.0
-7 ~ -7.
1024 ~ 2^{10}
\frac{3}{4} ~ 0.75
\frac{7}{12} ~ \dfrac{14}{24}
-\frac{5}{3} ~ \frac{-5}{3}
2\frac{1}{3} ~ \frac{7}{3}
10,080 ~ 10080
1{,}000{,}000 ~ 10^6
0.125 ~ \tfrac18
\$36.50 ~ 36.5
120^\circ ~ 120
72\text{ cm}^2 ~ 72
15\text{ minutes} ~ 15
3.2 \times 10^5 ~ 320000
\sqrt{50} ~ 5\sqrt{2}
\frac{1}{\sqrt{3}} ~ \frac{\sqrt{3}}{3}
3\sqrt{2}+2\sqrt{3} ~ 2\sqrt3+3\sqrt2
\frac{4+\sqrt{7}}{3} ~ \frac{\sqrt{7}}{3}+\frac{4}{3}
\frac{2}{1+\sqrt{5}} ~ \frac{\sqrt{5}-1}{2}
\sqrt{7+4\sqrt{3}} ~ 2+\sqrt{3}
\sqrt[3]{54} ~ 3\sqrt[3]{2}
\frac{\sqrt{15}}{5} ~ \sqrt{\frac{3}{5}}
5\sqrt{13} ~ \sqrt{325}
12\pi ~ \pi \cdot 12
\frac{9\pi}{4} ~ 2.25\pi
36-9\pi ~ 9(4-\pi)
\frac{\pi}{6} ~ 30^\circ
16\pi\sqrt{3} ~ 16\sqrt{3}\pi
\frac{4}{3}\pi r^3 ~ \frac{4\pi r^3}{3}
e^2 ~ e \cdot e
\ln 12 ~ \ln 3 + 2\ln 2
\log_2 32 ~ 5
\frac{1}{2}\ln 3 ~ \ln \sqrt{3}
\sin 15^\circ ~ \frac{\sqrt{6}-\sqrt{2}}{4}
\cos\frac{\pi}{5} ~ \frac{1+\sqrt{5}}{4}
\tan 75^\circ ~ 2+\sqrt{3}
2\sin x\cos x ~ \sin 2x
1-2\sin^2 x ~ \cos 2x
\arctan 1 ~ \frac{\pi}{4}
x^2+5x+6 ~ (x+2)(x+3)
(x-3)^2+4 ~ x^2-6x+13
6x^3-4x^2+x ~ x(6x^2-4x+1)
(a+b)(a-b) ~ a^2-b^2
\frac{x+1}{x-2} ~ \frac{1+x}{x-2}
\frac{x^2-4}{x-2} ~ x+2
\frac{1}{x}+\frac{1}{y} ~ \frac{x+y}{xy}
\frac{n(n+1)}{2} ~ \frac{n^2+n}{2}
2^{n+1}-2 ~ 2(2^n-1)
3^{n}\cdot 9 ~ 3^{n+2}
x^{3/2} ~ x\sqrt{x}
\frac{a^3b^2}{ab} ~ a^2b
-2x+7 ~ 7-2x
y = 3x - 4 ~ 3x-4
y=\frac{1}{2}x+5 ~ y = 0.5x+5
f(x) = x^2-1 ~ (x-1)(x+1)
x = 11 ~ 11
\frac{-1+\sqrt{5}}{2} ~ \frac{\sqrt{5}-1}{2}
12.5\% ~ \frac{1}{8}
a_1 + 3d ~ 3d + a_1
\frac{b-a}{2} ~ -\frac{a-b}{2}
mx+b ~ b+xm
4x^2y^3 ~ 4y^3x^2
\binom{8}{3} ~ \binom{8}{5}
7! ~ 5040
3+4i ~ 4i+3
\frac{1+i}{2} ~ \frac{1}{2}+\frac{i}{2}
(2-i)^2 ~ 3-4i
|3-4i| ~ 5
-i ~ \frac{1}{i}
(3,-4) ~ (3, -4)
(\frac{1}{2}, 2) ~ (0.5,2)
(-1,0,1) ~ \left(-1, 0, 1\right)
(\sqrt{8}, 45^\circ) ~ (2\sqrt{2}, \frac{\pi}{4})
(2, \frac{\pi}{3}) ~ \left( 2, \dfrac{\pi}{3} \right)
(a,b,c) ~ (a, b, c)
(5,\frac{2}{3},-6) ~ (5, \frac{4}{6}, -6)
1, 2, 4 ~ 1,2,4
-3, 5 ~ x = -3, x = 5
2 \text{ and } 7 ~ 2, 7
\frac{1}{3}, -2 ~ \frac{2}{6},-2
\{1,3,5\} ~ \{5,3,1\}
\{-2, \frac{1}{2}\} ~ \{0.5, -2\}
\{0\} ~ \{ 0 \}
1,3,9 ~ \{9, 3, 1\}
[0,5] ~ [0, 5.0]
(-2,7] ~ \left(-2, 7\right]
[\frac{1}{2},\infty) ~ [0.5, \infty)
(-\infty,-3) ~ x < -3
x \ge 4 ~ [4,\infty)
(2,6) ~ 2 < x < 6
-1 \le x \le 1 ~ x \in [-1,1]
[-5,5) ~ -5 \le x < 5
x > \frac{3}{2} ~ (\frac{3}{2}, \infty)
(-\infty, 7] ~ x \leq 7
(-\infty,2)\cup(5,\infty) ~ (5,\infty)\cup(-\infty,2)
[1,2]\cup[3,4] ~ x \in [1,2] \cup [3,4]
(-\infty,0)\cup(0,\infty) ~ (0,\infty) \cup (-\infty,0)
(-3,-1)\cup(1,3) ~ (1,3)\cup(-3,-1)
(-\infty,-4]\cup[4,\infty) ~ [4,\infty)\cup(-\infty,-4]
[-6,0)\cup(0,6] ~ (0,6]\cup[-6,0)
\mathbb{R} ~ (-\infty,\infty)
\emptyset ~ \{\}
x < 8 ~ 8 > x
y \ge 2x ~ 2x \le y
2x+3y=6 ~ 3y+2x=6
x+2y=8 ~ 2x+4y=16
y=2x+3 ~ 2x-y+3=0
x^2+y^2=25 ~ y^2+x^2=25
y = -x + 9 ~ x+y=9
3x-4y+12=0 ~ 4y = 3x+12
xy = 12 ~ yx = 12
x^2+y^2-4x=0 ~ x^2-4x+y^2=0
2 \pm \sqrt{3} ~ 2+\sqrt{3}, 2-\sqrt{3}
-1 \pm \sqrt{6} ~ \{-1-\sqrt{6}, -1+\sqrt{6}\}
\frac{5 \pm \sqrt{13}}{2} ~ \frac{5+\sqrt{13}}{2}, \frac{5-\sqrt{13}}{2}
\pm 3 ~ 3, -3
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ~ \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix} 2 \\ -5 \end{pmatrix} ~ \begin{bmatrix} 2 \\ -5 \end{bmatrix}
\begin{pmatrix} 1/2 & 0 \\ 0 & 1/2 \end{pmatrix} ~ \begin{pmatrix} 0.5 & 0 \\ 0 & \frac12 \end{pmatrix}
\begin{pmatrix} -\frac{7}{3} \\ 1 \\ 0 \end{pmatrix} ~ \begin{pmatrix} -7/3 \\ 1 \\ 0 \end{pmatrix}
\begin{pmatrix} \sqrt{8} & 1 \\ 0 & x \end{pmatrix} ~ \begin{pmatrix} 2\sqrt{2} & 1 \\ 0 & x \end{pmatrix}
\text{(B)} ~ B
\text{(D)} ~ (D)
\text{Yes} ~ yes
\text{No} ~ no
\text{even} ~ Even
\text{Evelyn} ~ Evelyn
\text{ellipse} ~ an ellipse
\text{Friday} ~ friday
\text{odd} ~ \text{ odd }
2400 ~ 2{,}400
\frac{100}{3} ~ 33\frac{1}{3}
.4 ~ \frac{2}{5}
\frac{243}{625} ~ 0.3888
17\frac{1}{2} ~ 17.5
\frac{15\sqrt{3}}{2} ~ 7.5\sqrt{3}
\frac{\sqrt{3}+3}{2} ~ \frac{3+\sqrt{3}}{2}
8\sqrt[4]{2} ~ 8 \cdot 2^{1/4}
\frac{3}{56} ~ \frac{6}{112}
27\text{ inches} ~ 27
6 \text{ feet} ~ 72 \text{ inches}
2\sqrt{6}\text{ cm} ~ \sqrt{24}
\frac{25}{2}\pi ~ 12.5\pi
k^2-3k+2 ~ (k-1)(k-2)
\frac{p}{q} ~ p/q
90-x ~ -x+90
5 \cdot 2^{9} ~ 2560
\sqrt{x+1}-1 ~ -1+\sqrt{1+x}
\frac{x}{\sqrt{x^2+1}} ~ x(x^2+1)^{-1/2}
"""  # noqa: E501


def writings() -> list[tuple[str, str]]:
    """(target, the same answer in another writing) of the list."""
    rows = [line.split(" ~ ") for line in TWICE.strip().splitlines()]
    return [(target, other) for target, other in rows]
