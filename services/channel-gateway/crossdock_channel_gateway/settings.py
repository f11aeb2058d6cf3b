"""Configuration of the gateway, from environment variables with the prefix `CROSSDOCK_GATEWAY_`."""

from __future__ import annotations

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every deployment decision of the gateway. Sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_GATEWAY_", populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = 8080
    bootstrap_servers: str = Field(
        "127.0.0.1:9092",
        validation_alias=AliasChoices("CROSSDOCK_GATEWAY_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"),
    )
    schema_registry_url: str = Field(
        "http://127.0.0.1:8081",
        validation_alias=AliasChoices("CROSSDOCK_GATEWAY_SCHEMA_REGISTRY_URL", "SCHEMA_REGISTRY_URL"),
    )
    publish_timeout_s: float = 3.0
    in_flight_max: int = Field(
        256, description="Requests of one source at a time; more are told to come back."
    )

    body_bytes_max: int = 1024 * 1024
    feed_bytes_max: int = 16 * 1024 * 1024
    settlement_bytes_max: int = 64 * 1024 * 1024

    shopify_secrets: str = Field(
        "", description="Webhook secrets, comma separated; two are valid during a rotation."
    )
    shopify_locations: dict[str, str] = Field(
        {},
        description="Shopify location id to our location; an id that is not listed is our location already.",
    )
    shopify_till_feed_shops: str = Field(
        "",
        description="Shops, comma separated, whose till sales come through the store feed and not by webhook.",
    )
    shopify_shop: str = Field("default-shop", description="Shop of a payout file when the caller names none.")
    amazon_seller: str = Field("default-seller", description="Seller account when the caller names none.")
    amazon_marketplace: str = Field(
        "ATVPDKIKX0DER", description="Marketplace of settlement lines whose file names none."
    )

    outbound: bool = True
    ordinal: int | None = Field(
        None,
        ge=0,
        validation_alias=AliasChoices("CROSSDOCK_GATEWAY_ORDINAL", "CROSSDOCK_ORDINAL"),
        description="Number of this instance: a restart under it takes its partitions back at once.",
    )
    wms_url: str = "http://127.0.0.1:9101"
    psp_url: str = "http://127.0.0.1:9102"
    channels_url: str = "http://127.0.0.1:9104"
    call_timeout_s: float = 5.0
    backoff_initial_s: float = 0.2
    backoff_max_s: float = 30.0
    lanes_max: int = Field(32, description="Calls of one partition at a time; one key never has two.")

    def secrets(self) -> tuple[bytes, ...]:
        return tuple(part.strip().encode() for part in self.shopify_secrets.split(",") if part.strip())

    def till_feed_shops(self) -> frozenset[str]:
        return frozenset(
            part.strip().lower() for part in self.shopify_till_feed_shops.split(",") if part.strip()
        )
