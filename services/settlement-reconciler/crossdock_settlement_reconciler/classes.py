"""The channels' own settlement labels and the class that each means: data, read by `matching`.

A label is (transaction type, amount type, description), compared without regard to case and spacing. `ANY` matches every text;
the most specific entry wins, in the order of `_SPECIFICITY`. A label without an entry has no class: it becomes a named
residual, never a guess. Amazon renames fees without notice, so whatever stands under `ItemFees` is a fee.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

ANY = "*"


class LineClass(StrEnum):
    """What a settlement line pays or takes, in the order in which totals are listed."""

    PRINCIPAL = "principal"
    TAX = "tax"
    SHIPPING = "shipping"
    PROMOTION = "promotion"
    FEE = "fee"
    FACILITATOR_TAX = "facilitator_tax"
    CHARGEBACK = "chargeback"
    REFUND = "refund"
    RESERVE = "reserve"
    ADJUSTMENT = "adjustment"


Label = tuple[str, str, str]

# A label matches a table entry after replacing none, some or all of its parts by ANY: True keeps the part.
_SPECIFICITY = (
    (True, True, True),
    (True, True, False),
    (True, False, True),
    (False, True, True),
    (True, False, False),
    (False, True, False),
)

# Balance transactions of Shopify Payments: one line for what moved, and one of amount type `fee`.
_SHOPIFY: dict[LineClass, tuple[str, ...]] = {
    LineClass.PRINCIPAL: ("charge", "charge_adjustment", "payment"),
    LineClass.REFUND: ("refund", "refund_adjustment", "refund_failure", "payment_refund"),
    LineClass.CHARGEBACK: (
        "dispute",
        "dispute_withdrawal",
        "dispute_reversal",
        "chargeback",
        "chargeback_reversal",
        "chargeback_hold",
        "chargeback_hold_release",
    ),
    LineClass.RESERVE: (
        "reserve",
        "reserved_funds",
        "reserved_funds_withdrawal",
        "reserved_funds_reversal",
    ),
    LineClass.ADJUSTMENT: (
        "adjustment",
        "credit",
        "debit",
        "payout_failure",
        "payout_cancellation",
        "payment_failure",
        "transfer",
        "transfer_refund",
    ),
    LineClass.FEE: ("chargeback_fee", "chargeback_fee_refund", "application_fee_refund", "shipping_label"),
}

# Amazon settlement report V2: transaction types that sell goods, and what stands under ItemPrice there.
_AMAZON_SALES = ("Order", "Order_Retrocharge", "Liquidations")
_AMAZON_PRICES = {
    "Principal": LineClass.PRINCIPAL,
    "GiftWrap": LineClass.PRINCIPAL,
    "Tax": LineClass.TAX,
    "ShippingTax": LineClass.TAX,
    "GiftWrapTax": LineClass.TAX,
    "Shipping": LineClass.SHIPPING,
}
_AMAZON_GIVEN_BACK = {
    "Refund": LineClass.REFUND,
    "Refund_Retrocharge": LineClass.REFUND,
    "Chargeback Refund": LineClass.CHARGEBACK,
    "A-to-z Guarantee Refund": LineClass.CHARGEBACK,
}
_AMAZON_OTHER = {
    "Current Reserve Amount": LineClass.RESERVE,
    "Previous Reserve Amount Balance": LineClass.RESERVE,
    "Subscription Fee": LineClass.FEE,
    "Storage Fee": LineClass.FEE,
    "StorageRenewalBilling": LineClass.FEE,
    "Shipping label purchase": LineClass.FEE,
    "Shipping label purchase for return": LineClass.FEE,
    "Payable to Amazon": LineClass.ADJUSTMENT,
    "Successful charge": LineClass.ADJUSTMENT,
    "BalanceAdjustment": LineClass.ADJUSTMENT,
}

# Walmart reconciliation report: (transaction type, amount type).
_WALMART_SALES = {
    "Product Price": LineClass.PRINCIPAL,
    "Product tax": LineClass.TAX,
    "Total Walmart Funded Savings": LineClass.PROMOTION,
    "Promo Code": LineClass.PROMOTION,
}
_WALMART_FEES = (
    "Commission on Product",
    "Fee/Reimbursement",
    "WFS Inventory Fee/Reimbursement",
)


#: Channels whose lines refer to items of the order; elsewhere the reference is a payment's.
ITEMISED = frozenset(("amazon", "walmart"))


def _shopify() -> dict[Label, LineClass]:
    table: dict[Label, LineClass] = {(ANY, "fee", ANY): LineClass.FEE}
    for line_class, kinds in _SHOPIFY.items():
        for kind in kinds:
            table[kind, ANY, ANY] = line_class
            table[kind, "fee", ANY] = LineClass.FEE
    return table


def _amazon() -> dict[Label, LineClass]:
    table: dict[Label, LineClass] = {
        (ANY, "ItemFees", ANY): LineClass.FEE,
        (ANY, "ItemWithheldTax", ANY): LineClass.FACILITATOR_TAX,
        (ANY, "Cost of Advertising", ANY): LineClass.FEE,
        ("ServiceFee", ANY, ANY): LineClass.FEE,
        ("FBAFees", ANY, ANY): LineClass.FEE,
        ("AmazonFees", ANY, ANY): LineClass.FEE,
        ("Debt Adjustment", ANY, ANY): LineClass.ADJUSTMENT,
        ("Liquidations Adjustments", ANY, ANY): LineClass.ADJUSTMENT,
        ("other-transaction", "FBA Inventory Reimbursement", ANY): LineClass.ADJUSTMENT,
        ("other-transaction - Reversal", ANY, ANY): LineClass.ADJUSTMENT,
    }
    for sale in _AMAZON_SALES:
        table[sale, "Promotion", ANY] = LineClass.PROMOTION
        for description, line_class in _AMAZON_PRICES.items():
            table[sale, "ItemPrice", description] = line_class
    for kind, line_class in _AMAZON_GIVEN_BACK.items():
        table[kind, "ItemPrice", ANY] = line_class
        table[kind, "Promotion", ANY] = line_class
    for description, line_class in _AMAZON_OTHER.items():
        table["other-transaction", ANY, description] = line_class
        table["other-transaction - Reversal", ANY, description] = line_class
    return table


def _walmart() -> dict[Label, LineClass]:
    table: dict[Label, LineClass] = {
        (ANY, "Product tax withheld", ANY): LineClass.FACILITATOR_TAX,
        ("Adjustment", ANY, ANY): LineClass.ADJUSTMENT,
        ("Dispute Settlement", ANY, ANY): LineClass.CHARGEBACK,
    }
    for kind in ("Sale", "Refund", "Adjustment"):
        for fee in _WALMART_FEES:
            table[kind, fee, ANY] = LineClass.FEE
    for amount_type, line_class in _WALMART_SALES.items():
        table["Sale", amount_type, ANY] = line_class
        table["Refund", amount_type, ANY] = LineClass.REFUND
    return table


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


#: Tables by channel; labels in their normal form.
TABLES: Mapping[str, Mapping[Label, LineClass]] = {
    channel: {
        (_normal(kind), _normal(amount_type), _normal(description)): line_class
        for (kind, amount_type, description), line_class in table.items()
    }
    for channel, table in (("shopify", _shopify()), ("amazon", _amazon()), ("walmart", _walmart()))
}


def class_of(channel: str, *, transaction_type: str, amount_type: str, description: str) -> LineClass | None:
    """The class of one label; None when the channel's table does not know it."""
    table = TABLES.get(channel)
    if table is None:
        return None
    parts = (_normal(transaction_type), _normal(amount_type), _normal(description))
    for kept in _SPECIFICITY:
        kind, amount, text = (part if keep else ANY for part, keep in zip(parts, kept, strict=True))
        line_class = table.get((kind, amount, text))
        if line_class is not None:
            return line_class
    return None
