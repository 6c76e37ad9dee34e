// Words of the talk screen.

export const en = {
  title: 'Talk',
};

export const zh = {
  title: '对话',
};
