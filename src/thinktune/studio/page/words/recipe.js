// Words about a recipe that several screens show.

export const en = {
  check: 'Check the rows',
  checkAgain: 'Check again',
  neverChecked: 'Not checked yet: nobody has looked at these rows.',
  stale: 'The recipe or its rows have changed since this was checked.',
  write: (change) => `Write ${change}`,
  mistakes: 'The recipe has mistakes',
  text: 'The recipe as a text',
  writeText: 'Write this text',
  undo: 'Undo',
  newer: 'The recipe has changed in the file since you began to type. Your text is kept here.',
  newerText: 'The text of the file now',
  takeNewer: 'Take the file’s text',
  keepMine: 'Replace it by mine',
  about: {
    'train.learning_rate': 'The learning rate is unusual.',
    'train.epochs': 'More passes than such a model needs.',
    'train.tokens_per_step': 'Too few steps.',
    'expert.rows_per_step': 'Too few steps.',
    'data.validation': 'Few rows are held out.',
    'data.max_tokens': 'Many rows are longer than the limit.',
  },
};

export const zh = {
  check: '检查数据',
  checkAgain: '重新检查',
  neverChecked: '还没有检查过这些数据。',
  stale: '检查之后，配方或数据有改动。',
  write: (change) => `写入 ${change}`,
  mistakes: '配方有错误',
  text: '配方原文',
  writeText: '写入原文',
  undo: '撤销',
  newer: '你开始编辑之后，文件里的配方有改动。你输入的内容仍保留在这里。',
  newerText: '文件现在的内容',
  takeNewer: '采用文件的内容',
  keepMine: '用我的内容替换',
  about: {
    'train.learning_rate': '学习率不在常见范围内。',
    'train.epochs': '轮数超过这类模型的需要。',
    'train.tokens_per_step': '步数太少。',
    'expert.rows_per_step': '步数太少。',
    'data.validation': '留出的数据太少。',
    'data.max_tokens': '许多行超过长度上限。',
  },
};
