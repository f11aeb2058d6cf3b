"""What an ERP's answers mean, also those that no ERP should give: none of them may stop the poster."""

import pytest
from aiohttp import ClientSession, web

from crossdock_erp_poster.erp_api import ErpApi, Response, posting_results
from crossdock_erp_poster.model import Posted, Unavailable, UnknownOutcome


def test_parts_of_a_batch_in_no_known_form_leave_only_their_own_documents_in_doubt() -> None:
    body = [{"status": 201, "external_ref": "E-1"}, "booked", None, {"status": "201"}, {}]
    booked, *unclear = posting_results(Response(200, body), len(body))
    assert booked == Posted("E-1", existed=False)
    assert [type(each) for each in unclear] == [UnknownOutcome] * 4


@pytest.mark.parametrize(
    ("said", "seconds"), [("7", 7.0), ("-1", 0.0), ("1e300", 86_400.0), ("inf", 86_400.0)]
)
async def test_nobody_is_told_to_wait_for_ever(said: str, seconds: float) -> None:
    async def away(_: web.Request) -> web.Response:
        return web.json_response({}, status=503, headers={"Retry-After": said})

    application = web.Application()
    application.router.add_get("/documents", away)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession() as session:
            found = await ErpApi(session, f"http://127.0.0.1:{runner.addresses[0][1]}").find("R-1")
    finally:
        await runner.cleanup()
    assert isinstance(found, Unavailable)
    assert found.retry_after_s == seconds
