"""FederationService: each method checks the caller, calls, and translates."""

from collections.abc import AsyncIterator

from director.services.process import Process
from director.services.runtime import Caller
from director.store.envoy_lists import Filter
from director.v1 import federation_pb2 as pb
from director.v1 import federation_pb2_grpc
from director.wire import codec
from director.wire.guard import Context, caller_of
from director.wire.pages import batches, write_page


class FederationServicer(federation_pb2_grpc.FederationServiceServicer):
    """What anyone may ask about the federation, and what operators do with its envoys."""

    def __init__(self, process: Process) -> None:
        """Serve a process."""
        self._process = process
        self._federation = process.federation

    def _caller(self, context: Context) -> Caller:
        return self._process.caller(caller_of(context))

    async def GetFederation(self, request: pb.GetFederationRequest, context: Context) -> pb.Federation:
        """Read what the federation expects."""
        del request
        caller_of(context)
        return codec.write_federation(await self._federation.info())

    async def ListEnvoys(self, request: pb.ListEnvoysRequest, context: Context) -> pb.ListEnvoysResponse:
        """List the envoys."""
        wanted = Filter(
            names=tuple(request.names),
            online=request.online if request.HasField("online") else None,
            show_retired=request.show_retired,
        )
        page = await self._federation.envoys(
            self._caller(context), wanted, page_size=request.page_size, page_token=request.page_token
        )
        envoys, token = write_page(page, codec.write_envoy)
        return pb.ListEnvoysResponse(envoys=envoys, next_page_token=token)

    async def RetireEnvoy(self, request: pb.RetireEnvoyRequest, context: Context) -> pb.Envoy:
        """Retire an envoy."""
        return codec.write_envoy(await self._federation.retire(request.envoy, self._caller(context)))

    async def RestoreEnvoy(self, request: pb.RestoreEnvoyRequest, context: Context) -> pb.Envoy:
        """Restore a retired envoy."""
        return codec.write_envoy(await self._federation.restore(request.envoy, self._caller(context)))

    async def StreamFederationEvents(
        self, request: pb.StreamFederationEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamFederationEventsResponse]:
        """Stream the federation's own events from a cursor on."""
        after = codec.read_cursor(request.after) if request.HasField("after") else None
        caller = self._caller(context)
        async for events in self._process.streams.federation_events(caller, after=after, follow=request.follow):
            for batch in batches(events, codec.write_event):
                yield pb.StreamFederationEventsResponse(events=batch)
