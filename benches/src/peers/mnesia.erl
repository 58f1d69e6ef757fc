#!/usr/bin/env escript
%% Sends as the players of the benchmarks do: reads "send COUNT GAP_NS TIMED 0" and answers
%% "sent ELAPSED_NS NS:COUNT ...". Tables are in memory only.
-mode(compile).

main(["check"]) ->
    ok = mnesia:start();
main(["send", Len]) ->
    ok = mnesia:start(),
    {atomic, ok} = mnesia:create_table(sequence, []),
    {atomic, ok} = mnesia:create_table(entry, [{attributes, [id, key, payload]}]),
    io:put_chars("ready\n"),
    serve(binary:copy(<<1>>, list_to_integer(Len))).

serve(Payload) ->
    case io:get_line("") of
        eof -> ok;
        Line ->
            case string:lexemes(string:trim(Line), " ") of
                ["settle"] -> io:put_chars("settled\n");
                ["send", Count, Gap, _Timed, "0"] ->
                    send(list_to_integer(Count), list_to_integer(Gap), Payload)
            end,
            serve(Payload)
    end.

send(Count, Gap, Payload) ->
    {atomic, ok} = mnesia:clear_table(entry),
    Start = erlang:monotonic_time(nanosecond),
    Taken = [append(Gap, Payload) || _ <- lists:seq(1, Count)],
    Elapsed = erlang:monotonic_time(nanosecond) - Start,
    Counts = lists:foldl(fun(Ns, Map) -> maps:update_with(Ns, fun(N) -> N + 1 end, 1, Map) end,
                         #{}, Taken),
    Pairs = [io_lib:format(" ~b:~b", [Ns, N]) || {Ns, N} <- maps:to_list(Counts)],
    io:put_chars([io_lib:format("sent ~b", [Elapsed]), Pairs, "\n"]).

append(Gap, Payload) ->
    case Gap of
        0 -> ok;
        _ -> timer:sleep(max(1, Gap div 1000000))
    end,
    Start = erlang:monotonic_time(nanosecond),
    {atomic, ok} = mnesia:transaction(fun() ->
        Seq = case mnesia:read(sequence, context, write) of
            [] -> 1;
            [{sequence, context, Last}] -> Last + 1
        end,
        ok = mnesia:write({sequence, context, Seq}),
        ok = mnesia:write({entry, {context, Seq}, <<"facts">>, Payload})
    end),
    erlang:monotonic_time(nanosecond) - Start.
