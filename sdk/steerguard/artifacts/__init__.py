"""Artifacts: the tensors that methods need, as one folder whose manifest pins every byte.

`manifest`, `paths`, `reference`, `versions`, `calibration`, `header`, `integrity` and `fit` need no torch;
`verify`, `fingerprint` and `codec` do.
"""
