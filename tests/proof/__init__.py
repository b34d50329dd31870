"""The proof that a frame reaches the request that it is about, and nobody else.

Two or three conversations take turns on one connection (`stage`). The peer (`peer`) says what servers say
(`scripts`, from the transcripts), and tampers with one turn (`order`, `contents`); the judge (`judge`)
compares what every caller was told with what was said. All as a black box: `wspool`'s public names and a
connector of the test's own. `python -m tests.proof` says what is broken, by mutation and rule.

A client without a flaw is no prophet. The judge asks only for what the frames that have been *read* tell,
in their order; what they do not tell is excused, by name, here and in `peer.py`.

Can be told, and is asked for:

* `response.created` with an id that was seen on this connection (a turn that comes again), or with a parent
  that was not sent: nobody's. Its events reach nobody, and the request in flight is not run again. An end
  with an id that was never seen and a parent that was not sent is no answer either.
* An event of another response: by `response.id`, and by `item_id` or `item.id` if that item was seen in
  an earlier response of the connection. So a late delta reaches nobody, with or without numbers.
* A late `error`, before `created`: by a number above 0 (events of its response have come before it), or
  because it has come word for word in the midst of an earlier response. It is no refusal of this request:
  not told to its caller, and no proof that it did not run.
* A frame behind a terminal event in the same read: the turn is over and as it was told; the connection is
  not lent again. The same of a frame on an idle connection.
* The end of a turn is its terminal event: by its type, whatever its `status` says; any `response.*` event
  with our id and a final status; else the grace after an `error`. An `error` after `created`, in whatever
  shape, frees no lane by itself.
* What is complete: a terminal event with a usable `output`, word by word; else the items that were announced
  as done, by `output_index`, if none of those that were heard of is missing and no two are at one place.
* Notices: types that are no `response.*`, empty and blank messages, at any place; `response.*` without an
  id that nobody knows, before `created` and in a turn; `connection_expiring`. Each uses up its number.
* Ids are the connection's own: a server may count from one on each (`restart`). A parent is one of this
  lane's, not whatever has the same name.

Cannot be told, and is not asked for:

* A second refusal without a number (`status`, or bare) that comes before `created` of the next request: it
  is what a second refusal looks like. Whatever follows on that connection is excused (`blurred`), until it
  is gone. The same of an `error` without number that comes for the first time *behind* its `response.failed`,
  and of a whole turn with a new id from a server that does not echo parents.
* A delta without number that is doubled, dropped or swapped within its turn. The turn goes on, and its
  output is right, for the last event or the finished items say what it is.
* An `error` without number amidst a running response: its own or a late one. The turn may be told as failed.
* Items of a response that was never heard to begin: they may be shown as events. Where nobody echoes parents
  and they come before the first item of this one, all of it may (`blurred`): gateways name ends as they like.
* Items of an earlier response that are announced, without a number, before the first item of this one: some
  servers use the ids of their items again. They may be shown as events, but are no part of what is told as
  complete.
* An item of which nothing at all was heard, where nobody counts and the end has no output.
* A terminal event that comes twice, the second time when the next request is on its way: that request may
  be lost (its connection is not trusted any more) but is neither answered wrongly nor run again.
  A turn whose terminal event was read before the stray frame is *not* lost.
* A turn that has lost its last event lasts until the server hangs up, for silence is normal: the peer does so
  after 20 seconds.
* Two finished items of which one has the other's index, both times, in `added` and in `done`.

The tampered turn itself may be lost (never told wrongly) where its own frames contradict each other: a
number missing or twice, a part of its answer missing, an id or a parent exchanged.
"""
