%% Erlang nodes of one lab find each other by files instead of by epmd, which is one daemon for the whole machine,
%% knows the nodes of all users, and stays when the nodes have gone.
%% The node NAME@localhost listens on the port that stands in $FAULTLINE_NODES/NAME/distribution.port.
-module(faultline_names).
-export([start_link/0, names/1, register_node/2, register_node/3, listen_port_please/2, port_please/2, port_please/3,
         address_please/3]).

start_link() -> ignore.

names(_Host) -> {ok, []}.

register_node(Name, Port) -> register_node(Name, Port, inet).

%% The number tells this life of the node from the one before.
register_node(_Name, _Port, _Family) -> {ok, erlang:system_time(second) band 16#7fffffff}.

listen_port_please(_Name, _Host) -> {ok, 0}.

port_please(Name, Host) -> port_please(Name, Host, infinity).

port_please(Name, _Host, _Timeout) ->
    case file:read_file(filename:join([os:getenv("FAULTLINE_NODES"), Name, "distribution.port"])) of
        {ok, Port} -> {port, binary_to_integer(Port), 6};
        {error, _} -> noport
    end.

address_please(_Name, _Host, inet) -> {ok, {127, 0, 0, 1}};
address_please(_Name, _Host, _Family) -> {error, eafnosupport}.
