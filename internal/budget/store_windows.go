package budget

import (
	"errors"
	"io/fs"
	"os"
)

const nonblock = 0

var errLocked = errors.New("locked")

// lockFile relies on the operator to start one proxy per file.
func lockFile(*os.File) error { return nil }

// syncFolder has nothing to do: folders cannot be synced here.
func syncFolder(*os.File) error { return nil }

// judgeOwner leaves it to the folder's access list who may write the file.
func judgeOwner(fs.FileInfo, []uint32) error { return nil }
