"""The label tables: what the channels' labels mean, and that unknown ones mean nothing."""

from __future__ import annotations

import pytest

from crossdock_settlement_reconciler.classes import class_of


@pytest.mark.parametrize(
    ("channel", "label", "expected"),
    [
        ("amazon", "Order|ItemPrice|Principal", "principal"),
        ("amazon", "Order|ItemPrice|Tax", "tax"),
        ("amazon", "Order|ItemPrice|Shipping", "shipping"),
        ("amazon", "Order|ItemPrice|ShippingTax", "tax"),
        ("amazon", "Order|ItemPrice|GiftWrap", "principal"),
        ("amazon", "Order|ItemPrice|GiftWrapTax", "tax"),
        ("amazon", "Order|ItemFees|Commission", "fee"),
        ("amazon", "Order|ItemFees|FBAPerUnitFulfillmentFee", "fee"),
        ("amazon", "Order|ItemFees|ShippingChargeback", "fee"),
        ("amazon", "Order|ItemFees|A fee renamed overnight", "fee"),
        ("amazon", "Order|ItemWithheldTax|MarketplaceFacilitatorTax-Principal", "facilitator_tax"),
        ("amazon", "Order|ItemWithheldTax|MarketplaceFacilitatorTax-Other", "facilitator_tax"),
        ("amazon", "Order|ItemWithheldTax|MarketplaceFacilitatorVAT-Principal", "facilitator_tax"),
        ("amazon", "Refund|ItemWithheldTax|LowValueGoodsTax-Principal", "facilitator_tax"),
        ("amazon", "Order|Promotion|Principal", "promotion"),
        ("amazon", "Order|Promotion|Shipping", "promotion"),
        ("amazon", "Order|Promotion|TaxDiscount", "promotion"),
        ("amazon", "Refund|ItemPrice|Principal", "refund"),
        ("amazon", "Refund|ItemPrice|Tax", "refund"),
        ("amazon", "Refund|Promotion|Principal", "refund"),
        ("amazon", "Refund|ItemFees|RefundCommission", "fee"),
        ("amazon", "Chargeback Refund|ItemPrice|Principal", "chargeback"),
        ("amazon", "Chargeback Refund|ItemFees|Commission", "fee"),
        ("amazon", "Liquidations|ItemPrice|Principal", "principal"),
        ("amazon", "ServiceFee|Cost of Advertising|TransactionTotalAmount", "fee"),
        ("amazon", "FBAFees|Anything|New", "fee"),
        ("amazon", "AmazonFees||", "fee"),
        ("amazon", "Debt Adjustment||", "adjustment"),
        ("amazon", "other-transaction|other-transaction|Previous Reserve Amount Balance", "reserve"),
        ("amazon", "other-transaction|FBA Inventory Reimbursement|WAREHOUSE_LOST", "adjustment"),
        ("amazon", "other-transaction - Reversal|other-transaction|Whatever", "adjustment"),
        ("amazon", "other-transaction - Reversal|other-transaction|Current Reserve Amount", "reserve"),
        ("amazon", "  order |ITEMPRICE|principal ", "principal"),
        ("amazon", "Order|ItemPrice|Surprise", None),
        ("amazon", "Order|ItemMystery|Principal", None),
        ("amazon", "Mystery|ItemPrice|Principal", None),
        ("amazon", "other-transaction|other-transaction|Surprise", None),
        ("amazon", "||", None),
        ("shopify", "charge|gross|", "principal"),
        ("shopify", "charge|amount|payment", "principal"),
        ("shopify", "charge|fee|", "fee"),
        ("shopify", "mystery|fee|", "fee"),
        ("shopify", "refund|gross|", "refund"),
        ("shopify", "dispute|gross|", "chargeback"),
        ("shopify", "chargeback|gross|", "chargeback"),
        ("shopify", "reserve|gross|", "reserve"),
        ("shopify", "adjustment|gross|", "adjustment"),
        ("shopify", "payout|gross|", None),
        ("shopify", "mystery|gross|", None),
        ("walmart", "Sale|Product Price|", "principal"),
        ("walmart", "Sale|Commission on Product|", "fee"),
        ("walmart", "Sale|Product tax|", "tax"),
        ("walmart", "Sale|Product tax withheld|", "facilitator_tax"),
        ("walmart", "Sale|Total Walmart Funded Savings|", "promotion"),
        ("walmart", "Refund|Product Price|", "refund"),
        ("walmart", "Adjustment|WFS Inventory Fee/Reimbursement|", "fee"),
        ("walmart", "Dispute Settlement|Product Price|", "chargeback"),
        ("walmart", "Sale|Surprise|", None),
        ("bigcommerce", "charge|gross|", None),
    ],
)
def test_a_label_means_one_class_or_none(channel: str, label: str, expected: str | None):
    kind, amount_type, description = label.split("|")

    found = class_of(channel, transaction_type=kind, amount_type=amount_type, description=description)

    assert found == expected
