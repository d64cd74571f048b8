package openaitest

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The opcodes of RFC 6455, section 5.2, of which more than the number matters.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

const maxFrame = 16 << 20

var errFrame = errors.New("malformed WebSocket frame")

// accept writes the head that accepts the handshake with a key (RFC 6455, section
// 4.2.2), with the fields that the scenario adds.
func (x *exchange) accept(key string) {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	x.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n")
	if e := x.args["extension"]; e != "" {
		x.write("Sec-WebSocket-Extensions: " + e + "\r\n")
	}
	if p := x.args["protocol"]; p != "" {
		x.write("Sec-WebSocket-Protocol: " + p + "\r\n")
	}
	x.write("\r\n")
	x.flush()
}

// switched accepts the handshake and sends bytes.
func switched(how ending, text string) func(*exchange) ending {
	return func(x *exchange) ending {
		x.accept(x.r.Get("Sec-WebSocket-Key"))
		x.write(text)
		return how
	}
}

// handleWebsocketWrong accepts with a key that was never sent.
func handleWebsocketWrong(x *exchange) ending {
	x.accept("wrong")
	return hold
}

// handleWebsocketSlow sends its first frame in two pieces and then waits for a
// close frame.
func handleWebsocketSlow(x *exchange) ending {
	switched(hold, "\x81\x0ahello")(x)
	if !x.pause(x.dur(50 * time.Millisecond)) {
		return cut
	}
	x.write("world")
	return x.frames(func(byte, []byte) bool { return true })
}

// handleWebsocket implements the Responses API's WebSocket mode: a message of type
// response.create is answered with a response's events, any other is echoed.
func handleWebsocket(x *exchange) ending {
	x.accept(x.r.Get("Sec-WebSocket-Key"))
	left := x.num("n", -1)
	return x.frames(func(op byte, data []byte) bool {
		x.answerFrame(op, data)
		left--
		return left != 0
	})
}

// frames hands messages to answer until that returns false, or a close frame comes, which it answers itself.
func (x *exchange) frames(answer func(op byte, data []byte) bool) ending {
	for x.flush(); x.err == nil; x.flush() {
		op, data, err := x.readMessage()
		switch {
		case errors.Is(err, errFrame):
			x.c.s.fault(err.Error())
			return cut
		case err != nil:
			return cut
		case op == opClose:
			x.frame(opClose, data)
			return finish
		case !answer(op, data):
			return x.closeWebsocket(x.num("code", 0))
		}
	}
	return cut
}

// closeWebsocket cuts the connection, or exchanges close frames if there is a code.
func (x *exchange) closeWebsocket(code int) ending {
	if code == 0 {
		return cut
	}
	x.frame(opClose, binary.BigEndian.AppendUint16(nil, uint16(code)))
	x.flush()
	if op, _, err := x.readMessage(); err != nil || op != opClose {
		return cut
	}
	return finish
}

func (x *exchange) answerFrame(op byte, data []byte) {
	var ask struct{ Type, Model string }
	switch {
	case op == opPing:
		x.frame(opPong, data)
	case op == opPong:
	case json.Unmarshal(data, &ask) == nil && ask.Type == "response.create":
		x.ask.Model, x.r.BodyLen = ask.Model, int64(len(data))
		st := &stream{message: x.newMessage(0), x: x, limit: -1, emit: func(_ string, p []byte) { x.frame(opText, p) }}
		st.run(0, x.num("s", 3), 0, x.dur(0))
	default:
		x.frame(op, data)
	}
}

// frame writes one that is not masked, as a server's are.
func (x *exchange) frame(op byte, data []byte) {
	x.out = append(x.out, 0x80|op)
	switch n := len(data); {
	case n < 126:
		x.out = append(x.out, byte(n))
	case n < 1<<16:
		x.out = binary.BigEndian.AppendUint16(append(x.out, 126), uint16(n))
	default:
		x.out = binary.BigEndian.AppendUint64(append(x.out, 127), uint64(n))
	}
	x.write(string(data))
}

// readMessage reads a control frame, or the frames of a message.
func (x *exchange) readMessage() (op byte, message []byte, err error) {
	for {
		first, data, err := readFrame(x.c)
		if err != nil || first&15 >= opClose {
			return first & 15, data, err
		}
		if first&15 != 0 {
			op = first & 15
		}
		message = append(message, data...)
		if first&0x80 != 0 {
			return op, message, nil
		}
	}
}

// readFrame reads a frame and unmasks it. It must be masked, as a client's must be (RFC 6455, section 5.1).
func readFrame(in io.Reader) (first byte, data []byte, err error) {
	read := func(n uint64) []byte {
		p := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(in, p)
		}
		return p
	}
	h := read(2)
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(read(2)))
	case 127:
		n = binary.BigEndian.Uint64(read(8))
	}
	if err == nil && (h[1]&0x80 == 0 || n > maxFrame) {
		err = fmt.Errorf("%w: not masked, or of %d bytes", errFrame, n)
	}
	if err != nil {
		return 0, nil, err
	}
	mask := read(4)
	data = read(n)
	for i := range data {
		data[i] ^= mask[i%4]
	}
	return h[0], data, err
}
