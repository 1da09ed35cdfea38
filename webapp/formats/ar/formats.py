"""Numbers in Arabic as browsers write them with the digits 0 to 9 (CLDR, latn), so that charts and tables agree."""

DECIMAL_SEPARATOR = "."
THOUSAND_SEPARATOR = ","
