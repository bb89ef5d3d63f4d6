"""Controls of DHSM: is it the hard spectra that help, how fast P̂ follows, or neither?"""

from train.paper.rows import Row, all_of, fixed, options

# P̂ of R, G, B and gray after the last epoch of CDP+DHSM, mean of the runs in RESULTS.md.
DHSM_ENDS_AT = (0.25, 0.25, 0.25, 0.25)

CONTROLS: dict[str, Row] = {
    "dhsm-end": Row(
        "CDP with P̂ fixed at what DHSM ends with.",
        all_of(fixed, options("dhsm", start=DHSM_ENDS_AT)),
    ),
    "dhsm-easy": Row(
        "CDP+DHSM reversed: easy spectra get more probability.", options("dhsm", prefer="easy")
    ),
    "dhsm-alpha-0.5": Row("CDP+DHSM with α = 0.5.", options("dhsm", alpha=0.5)),
    "dhsm-alpha-0.9": Row("CDP+DHSM with α = 0.9.", options("dhsm", alpha=0.9)),
}
