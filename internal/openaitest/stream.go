package openaitest

import (
	"fmt"
	"time"
)

// A stream writes the documented events of one streamed response.
type stream struct {
	*message
	x      *exchange
	bare   bool // without chunked framing
	flush  bool // each event on its own
	frames bool // each event in a WebSocket frame, the data alone
	seq    int
	event  []byte
}

func (x *exchange) newStream() *stream {
	return &stream{message: x.newMessage(), x: x, flush: x.sc.num("flush", 0) == 1}
}

// send writes one event; rest is JSON that follows the type and the number.
func (st *stream) send(kind, rest string) {
	if st.frames {
		st.x.frame(opText, fmt.Appendf(nil, `{"type":"%s","sequence_number":%d%s}`, kind, st.seq, rest))
		st.seq++
		return
	}
	st.event = fmt.Appendf(st.event[:0], "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d%s}\n\n", kind, kind, st.seq, rest)
	st.seq++
	if st.bare {
		st.x.writeBytes(st.event)
	} else {
		st.x.chunk(st.event)
	}
	if st.flush {
		st.x.flush()
	}
}

const place = `,"item_id":"%s","output_index":0,"content_index":0`

const emptyPart = `{"type":"output_text","annotations":[],"logprobs":[],"text":""}`

// opening are the events before the text.
func (st *stream) opening() []func() {
	return []func(){
		func() { st.send("response.created", fmt.Sprintf(`,"response":%s`, st.object("in_progress"))) },
		func() { st.send("response.in_progress", fmt.Sprintf(`,"response":%s`, st.object("in_progress"))) },
		func() {
			st.send("response.output_item.added", fmt.Sprintf(`,"output_index":0,"item":%s`, st.output("in_progress", "")))
		},
		func() {
			st.send("response.content_part.added", fmt.Sprintf(place+`,"part":%s`, st.item, emptyPart))
		},
	}
}

// ending are the events after the text.
func (st *stream) ending() []func() {
	return []func(){
		func() {
			st.send("response.output_text.done", fmt.Sprintf(place+`,"text":%s,"logprobs":[]`, st.item, quote(st.text())))
		},
		func() { st.send("response.content_part.done", fmt.Sprintf(place+`,"part":%s`, st.item, st.part())) },
		func() {
			st.send("response.output_item.done", fmt.Sprintf(`,"output_index":0,"item":%s`, st.output("completed", st.part())))
		},
		func() { st.send("response.completed", fmt.Sprintf(`,"response":%s`, st.object("completed"))) },
	}
}

// deltaOverhead is the length of a delta event without its text and with one
// digit for its number: "event:" and "data:" lines, ids and the time.
const deltaOverhead = 232

// delta writes one delta event of size bytes, or the shortest if that is
// longer. Its extra field t is the time in Unix nanoseconds.
func (st *stream) delta(size int) {
	pad := size - deltaOverhead - (len(fmt.Sprint(st.seq)) - 1)
	text := filler(max(pad, 4))
	st.add(text)
	st.send("response.output_text.delta", fmt.Sprintf(place+`,"delta":"%s","logprobs":[],"t":%d`, st.item, text, time.Now().UnixNano()))
}

// run writes whole streams, and the beginnings of those that are cut: the
// events, at most limit of them, d before each delta but the first.
func (st *stream) run(deltas, size int, d time.Duration, limit int) {
	events := st.opening()
	for i := range deltas {
		events = append(events, func() {
			if i == 0 || d == 0 || st.x.pause(d) {
				st.delta(size)
			}
			if d > 0 {
				st.x.flush()
			}
		})
	}
	for i, event := range append(events, st.ending()...) {
		if i == limit || st.x.err != nil {
			return
		}
		event()
	}
}

// end writes the last chunk.
func (st *stream) end() {
	if !st.bare {
		st.x.write("0\r\n\r\n")
	}
}

const noLimit = -1
