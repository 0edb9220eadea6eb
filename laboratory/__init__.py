"""The stability laboratory: breaks tiny runs in every way known, and judges what the product says."""
