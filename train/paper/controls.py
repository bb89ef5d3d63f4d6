"""Controls of DHSM: is it the hard spectra that help, how fast P̂ follows, or neither?"""

from train.paper.rows import Row, all_of, dynamic, fixed, options

# P̂ of R, G, B and gray in the last of 24 epochs of CDP+DHSM on 160 synthetic people that no table
# tests (`cdp data make DIR --seed 1`), mean of two runs.
DHSM_ENDS_AT = (0.26, 0.23, 0.29, 0.22)

CONTROLS: dict[str, Row] = {
    "dhsm-end": Row(
        "CDP with P̂ fixed at what DHSM ends with.",
        all_of(fixed, options("dhsm", start=DHSM_ENDS_AT)),
    ),
    "dhsm-easy": Row(
        "CDP+DHSM reversed: easy spectra get more probability.",
        all_of(dynamic, options("dhsm", prefer="easy")),
    ),
    "dhsm-alpha-0.5": Row("CDP+DHSM with α = 0.5.", all_of(dynamic, options("dhsm", alpha=0.5))),
    "dhsm-alpha-0.9": Row("CDP+DHSM with α = 0.9.", all_of(dynamic, options("dhsm", alpha=0.9))),
}
