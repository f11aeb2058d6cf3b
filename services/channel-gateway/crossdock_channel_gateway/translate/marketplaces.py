"""Amazon's marketplaces: ids of the Selling Partner API, names in settlement reports, currency, and whether prices contain tax.

Source: "Marketplace IDs" of the SP-API documentation; names as the settlement report's `marketplace-name` has them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marketplace:
    marketplace_id: str
    name: str
    currency: str
    taxes_included: bool


MARKETPLACES = (
    Marketplace("ATVPDKIKX0DER", "Amazon.com", "USD", taxes_included=False),
    Marketplace("A2EUQ1WTGCTBG2", "Amazon.ca", "CAD", taxes_included=False),
    Marketplace("A1AM78C64UM0Y8", "Amazon.com.mx", "MXN", taxes_included=True),
    Marketplace("A2Q3Y263D00KWC", "Amazon.com.br", "BRL", taxes_included=True),
    Marketplace("A28R8C7NBKEWEA", "Amazon.ie", "EUR", taxes_included=True),
    Marketplace("A1RKKUPIHCS9HS", "Amazon.es", "EUR", taxes_included=True),
    Marketplace("A1F83G8C2ARO7P", "Amazon.co.uk", "GBP", taxes_included=True),
    Marketplace("A13V1IB3VIYZZH", "Amazon.fr", "EUR", taxes_included=True),
    Marketplace("AMEN7PMS3EDWL", "Amazon.com.be", "EUR", taxes_included=True),
    Marketplace("A1805IZSGTT6HS", "Amazon.nl", "EUR", taxes_included=True),
    Marketplace("A1PA6795UKMFR9", "Amazon.de", "EUR", taxes_included=True),
    Marketplace("APJ6JRA9NG5V4", "Amazon.it", "EUR", taxes_included=True),
    Marketplace("A2NODRKZP88ZB9", "Amazon.se", "SEK", taxes_included=True),
    Marketplace("AE08WJ6YKNBMC", "Amazon.co.za", "ZAR", taxes_included=True),
    Marketplace("A1C3SOZRARQ6R3", "Amazon.pl", "PLN", taxes_included=True),
    Marketplace("ARBP9OOSHTCHU", "Amazon.eg", "EGP", taxes_included=True),
    Marketplace("A33AVAJ2PDY3EV", "Amazon.com.tr", "TRY", taxes_included=True),
    Marketplace("A17E79C6D8DWNP", "Amazon.sa", "SAR", taxes_included=True),
    Marketplace("A2VIGQ35RCS4UG", "Amazon.ae", "AED", taxes_included=True),
    Marketplace("A21TJRUUN4KGV", "Amazon.in", "INR", taxes_included=True),
    Marketplace("A19VAU5U5O7RUS", "Amazon.sg", "SGD", taxes_included=True),
    Marketplace("A39IBJ37TRP1C6", "Amazon.com.au", "AUD", taxes_included=True),
    Marketplace("A1VC38T7YXB528", "Amazon.co.jp", "JPY", taxes_included=True),
)
BY_ID = {each.marketplace_id: each for each in MARKETPLACES}
BY_NAME = {each.name.lower(): each for each in MARKETPLACES}
